"""Commands load only what they need, shown in new interpreters: torch alone takes 470 MB and 2 CPU seconds."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from monolith_py.clock import SystemClock
from monolith_py.config import SyncConfig, load_job
from monolith_py.io import open_log
from monolith_py.io.log.topics import Topics, create_topics
from monolith_py.sync import PublishedModel, Publisher
from monolith_py.sync.generation import Generation
from monolith_py.training import CheckpointMeta, Trainer, save_checkpoint
from monolith_serving.client import RankClient

TOML = """
name = "shop"
[log]
url = "sqlite:///{folder}/log"
[kv]
url = "sqlite:///{folder}/kv.db"
[[features]]
name = "user_id"
source = "user_id"
[[features]]
name = "item_id"
source = "item_id"
[[tasks]]
name = "click"
action = "click"
[trainer]
checkpoint_dir = "{folder}/checkpoints"
[sync]
encoding = "int8"
[serving]
port = 0
port_file = "{folder}/port"
"""
TRAINING = {"torch", "torchrec", "fbgemm_gpu", "tensordict", "torchmetrics", "pandas", "scipy", "sklearn", "matplotlib", "apache_beam"}
SERVER = TRAINING | {"pyarrow"}
TOOL = SERVER | {"grpc"}
# One interpreter runs all commands, one after the other, so what a command must not load none before it may have loaded.
COMMANDS: list[tuple[str, set[str]]] = [
    ("--help", TOOL | {"numpy", "pydantic", "prometheus_client", "google"}),
    ("settings", TOOL | {"numpy", "google"}),
    ("check-config --config {job}", TOOL | {"numpy", "google"}),
    ("versions --config {job}", TOOL),
    ("promote --config {job} --channel good", TOOL),
    ("digest --config {job}", TOOL),
    ("dead-letters --config {job}", TOOL),
    ("inspect {folder}/checkpoints --feature item_id", TOOL),
    ("rollback --config {job} --to 0", TOOL),
    ("rank --config {job} --address 127.0.0.1:1 --user 1 --candidates 1", SERVER),
    ("topics --config {job}", TRAINING),
    ("trim --config {job}", TRAINING),
    ("join --config {job} --stop-at-end", TRAINING),
    ("archive --config {job} {folder}/archive", TRAINING),
    ("compare --config {job}", TRAINING),
]
ALL_IN_ONE = """
import json, sys
from monolith_py.cli import app
for command in json.load(sys.stdin):
    try:
        app(command.split())
    except SystemExit as error:
        status = error.code
    sys.stderr.write(json.dumps([command, status, sorted({name.partition(".")[0] for name in sys.modules})]) + "\\n")
"""
SERVE = """
import sys
from monolith_py.cli import app
try:
    app(["serve", "--config", sys.argv[1]])
except SystemExit as error:
    print(error.code, *sys.modules)
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Return the file of a job with topics, a checkpoint, and a publication after it."""
    path = tmp_path / "job.toml"
    path.write_text(TOML.format(folder=tmp_path))
    job = load_job(path)
    with closing(open_log(job.log)) as log:
        create_topics(log, job.log)
        trainer = Trainer(job)
        meta = CheckpointMeta(
            job="shop", step=0, examples_trained=0, generation=1, next_seq=0, updates_offset=0, offsets={}, watermark_ms=0, saved_ms=0
        )
        save_checkpoint(tmp_path / "checkpoints", trainer, meta, keep=1)
        model = PublishedModel(trainer.bags.tables, trainer.export_dense, trainer.layout.identity(""))
        with closing(
            Publisher(log, Topics.of(job.log), model, SyncConfig(encoding="int8"), SystemClock(), generation=Generation(1, "trainer"))
        ) as publisher:
            publisher.flush(0)
    return path


def test_a_command_loads_only_what_it_needs(config: Path, tmp_path: Path) -> None:
    commands = [command.format(job=config, folder=tmp_path) for command, _ in COMMANDS]
    done = subprocess.run([sys.executable, "-c", ALL_IN_ONE], input=json.dumps(commands), capture_output=True, text=True, check=True)
    results = [json.loads(line) for line in done.stderr.splitlines() if line.startswith('["')]
    assert [command for command, _, _ in results] == commands
    for (command, status, loaded), (_, forbidden) in zip(results, COMMANDS, strict=True):
        assert status == 0 or "rank" in command or "compare" in command, f"{command}: {done.stderr}"
        assert not forbidden & set(loaded), command


def test_a_replica_loads_no_torch_and_no_arrow_whatever_is_asked(config: Path, tmp_path: Path) -> None:
    replica = subprocess.Popen([sys.executable, "-c", SERVE, str(config)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        while not (tmp_path / "port").exists() and replica.poll() is None:
            time.sleep(0.05)
        assert replica.poll() is None, replica.communicate()
        with RankClient(f"127.0.0.1:{(tmp_path / 'port').read_text()}") as client:
            plain = client.rank_when_ready(1, [1, 2, 3], wait_s=60.0, timeout_s=60.0)
            explained = client.rank(1, [1, 2, 3], timeout_s=60.0, top_k=2, explain=True, log_impression=False)
        assert len(plain.scores) == 3 and len(explained.scores) == 2
        replica.send_signal(signal.SIGTERM)
        output, errors = replica.communicate(timeout=60)
    finally:
        replica.kill()
        replica.wait()
    status, *loaded = output.split()
    assert status == "0", errors
    assert not SERVER & {name.partition(".")[0] for name in loaded}
