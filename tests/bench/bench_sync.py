"""Freshness of served scores from a click, without and with a stream of row updates; bytes of a row; the cost of updates for a ranking.

All processes of the product are real and share the machine: joiner, trainer, one replica, `monolith probe`. For the cost of updates a
replica gets the recorded updates again, in their own time, without the trainer beside it.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from figures import cpu_seconds, figure, print_machine
from sync_load import ITEM_FEATURES, NUM_FIDS

from monolith_demo.driver.ports import free_ports
from monolith_py.config import load_job
from monolith_py.io import open_log
from monolith_py.io.log.topics import create_topics
from monolith_py.training import Checkpoint
from monolith_serving.client import RankClient

DIM, ROWS_PER_S = 16, 110_000  # some of the rows are the same within a publication
TOML = """
name = "bench"
[log]
url = "sqlite:///{folder}/log"
[kv]
url = "sqlite:///{folder}/kv.db"
{features}
[[tasks]]
name = "is_click"
action = "click"
[[tasks]]
name = "long_view"
action = "long_view"
[joiner]
request_terminal_actions = ["end"]
[model.sparsity]
preset = "dsl_online"
[trainer]
checkpoint_dir = "{checkpoints}"
checkpoint_interval_s = 20.0
num_threads = 1
[sync]
encoding = "int8"
{sync}
[serving]
port = {port}
port_file = "{folder}/port"
[observe]
trainer_port = {trainer_port}
serving_port = {serving_port}
"""


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--probes", type=int, default=100, help="clicks without and with load")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of a turn with or without updates")
    parser.add_argument("--turns", type=int, default=3, help="number of turns of each kind")
    parser.add_argument("--rows", type=float, default=ROWS_PER_S, help="rows to update in a second")
    parser.add_argument("--sync", default="", help="lines of [sync], for a comparison")
    options = parser.parse_args()
    print_machine(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bench_freshness(folder, options)
        bench_cost(folder, options)


class Job:
    """One job in a folder, with its processes."""

    def __init__(self, folder: Path, checkpoints: Path, sync: str) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.config = folder, folder / "job.toml"
        port, self.trainer_port, self.serving_port = free_ports(3)
        named = [("user_id", "user_id"), ("item_id", "item_id"), *((feature, "item") for feature in ITEM_FEATURES)]
        tables = "\n".join(f'[[features]]\nname = "{name}"\nsource = "{source}"\ndim = {DIM}' for name, source in named)
        ports = {"port": port, "trainer_port": self.trainer_port, "serving_port": self.serving_port}
        self.config.write_text(TOML.format(folder=folder, checkpoints=checkpoints, features=tables, sync=sync, **ports))
        self.job, self.address = load_job(self.config), f"127.0.0.1:{port}"
        log = open_log(self.job.log.url)
        create_topics(log, self.job.log)
        log.close()

    def start(self, stack: ExitStack, *command: str, **pipes: Any) -> subprocess.Popen[str]:
        """Start a process; `stack` kills it."""
        errors = stack.enter_context((self.folder / f"{len(list(self.folder.glob('*.stderr')))}.stderr").open("w"))
        child = stack.enter_context(subprocess.Popen([sys.executable, *command], stderr=errors, text=True, **pipes))
        stack.callback(child.kill)
        return child

    def monolith(self, stack: ExitStack, command: str) -> subprocess.Popen[str]:
        """Start `monolith COMMAND`."""
        return self.start(stack, "-m", "monolith_py.cli", command, "--config", str(self.config))

    def wait_for_port(self) -> None:
        """Wait until the replica has a model."""
        while not (self.folder / "port").exists():
            time.sleep(0.05)


def bench_freshness(folder: Path, options: argparse.Namespace) -> None:
    """Probes of a job without other traffic, then with updates of so many rows."""
    job = Job(folder / "live", folder / "checkpoints", options.sync)
    with ExitStack() as stack:
        children = [job.monolith(stack, command) for command in ("join", "train", "serve")]
        job.wait_for_port()
        probe(job, 5)  # first calls of each process
        print_freshness("sync.freshness_idle", probe(job, options.probes))
        load = job.start(stack, str(Path(__file__).with_name("sync_load.py")), "impressions", str(job.config), str(options.rows))
        time.sleep(15)  # until most rows exist
        began_s, before = time.monotonic(), metric(job.serving_port, "monolith_rows_applied_total")
        used_s = [cpu_seconds(child.pid) for child in children]
        found = probe(job, options.probes)
        applied = metric(job.serving_port, "monolith_rows_applied_total") - before
        figure("sync.updated_rows_per_s", applied / (time.monotonic() - began_s), "rows/s")
        for role, child, used in zip(("joiner", "trainer", "replica"), children, used_s, strict=True):
            figure(f"sync.cpu_us_per_row.{role}", 1e6 * (cpu_seconds(child.pid) - used) / applied, "us")
        print_freshness("sync.freshness", found)
        rows, sent = (metric(job.trainer_port, f"monolith_{name}_total") for name in ("rows_published", "published_bytes"))
        dense = metric(job.trainer_port, "monolith_dense_published_bytes_total")
        figure("sync.bytes_per_row_int8", (sent - dense) / rows, "bytes")
        load.kill()
        for child in children:
            assert child.poll() is None, (child.args, [path.read_text()[-2000:] for path in job.folder.glob("*.stderr")])
            child.terminate()
            child.wait(60)


def bench_cost(folder: Path, options: argparse.Namespace) -> None:
    """Time of a ranking of 100 candidates, 60 a second, while the recorded updates come and while none do, in turns."""
    recorded = load_job(folder / "live" / "job.toml").log.url
    oldest = Checkpoint.all_in(folder / "checkpoints")[-1]
    alone = folder / "oldest"
    alone.mkdir()
    oldest.path.rename(alone / oldest.path.name)
    job = Job(folder / "again", alone, options.sync)
    script = str(Path(__file__).with_name("sync_load.py"))
    updates_offset = Checkpoint(alone / oldest.path.name).meta.updates_offset
    with ExitStack() as stack:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        load = job.start(stack, script, "updates", str(job.config), recorded, str(updates_offset), **pipes)
        assert load.stdin is not None and load.stdout is not None and load.stdout.readline() == "ready\n"
        job.monolith(stack, "serve")
        job.wait_for_port()
        client = stack.enter_context(RankClient(job.address))
        durations_s: dict[bool, list[float]] = {False: [], True: []}
        rank_for(client, 3.0)
        rows, took_s = 0.0, 0.0
        for _ in range(options.turns):
            for with_updates in (False, True):
                before, began_s = metric(job.serving_port, "monolith_rows_applied_total"), time.monotonic()
                if with_updates:
                    print(options.seconds, file=load.stdin, flush=True)
                durations_s[with_updates] += rank_for(client, options.seconds)
                if with_updates:
                    rows += metric(job.serving_port, "monolith_rows_applied_total") - before
                    took_s += time.monotonic() - began_s
                    assert load.stdout.readline() == "turn over\n"
    idle_s, busy_s = (float(np.percentile(durations_s[kind], 99)) for kind in (False, True))
    figure("sync.replayed_rows_per_s", rows / took_s, "rows/s")
    figure("serve.p99_idle_ms", 1000 * idle_s, "ms")
    figure("serve.p99_during_sync_ms", 1000 * busy_s, "ms")
    figure("serve.p99_during_sync_vs_idle", busy_s / idle_s, "ratio")


def rank_for(client: RankClient, seconds: float) -> list[float]:
    """Return the seconds of each ranking, begun 60 times a second."""
    rng, found = np.random.default_rng(1), []
    began_s = time.perf_counter()
    for number in range(int(60 * seconds)):
        time.sleep(max(0.0, began_s + number / 60 - time.perf_counter()))
        items = rng.integers(1, NUM_FIDS, 100).tolist()
        call_s = time.perf_counter()
        client.rank(int(rng.integers(1, NUM_FIDS)), items, timeout_s=10.0)
        found.append(time.perf_counter() - call_s)
    return found


def probe(job: Job, count: int) -> dict[str, dict[str, float]]:
    """Return the times of `monolith probe`, by part and percentile."""
    options = ["--config", str(job.config), "--count", str(count), "--interval", "0.25", "--timeout", "60", "--json"]
    command = [sys.executable, "-m", "monolith_py.cli", "probe", "--address", job.address, *options]
    answer = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    found: dict[str, dict[str, float]] = answer["seconds"]
    return found


def print_freshness(name: str, found: dict[str, dict[str, float]]) -> None:
    """Print the times of the whole way, and the median of each part."""
    figure(f"{name}_p50_s", found["total"]["p50"], "s")
    figure(f"{name}_p99_s", found["total"]["p99"], "s")
    for part in ("join", "train", "publish", "apply"):
        figure(f"{name}_{part}_p50_s", found[part]["p50"], "s")


def metric(port: int, name: str) -> float:
    """Return the sum of a metric's samples in a process."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    return sum(float(value) for value in re.findall(rf"^{name}(?:\{{.*\}})? (\S+)$", text, re.MULTILINE))


if __name__ == "__main__":
    main()
