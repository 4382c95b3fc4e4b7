"""Start of a replica: memory of an idle one, seconds and memory until one with many rows is ready, seconds of a rollback with three.

Seconds of the clock depend on the load of the machine; those of the CPU are beside them.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from figures import cpu_seconds, figure, print_machine
from job_file import Setting, write_job
from replica_processes import address_of, replicas, running

from monolith_py.config import load_job
from monolith_py.data.columns import FeatureColumns, SparseColumn
from monolith_py.data.examples import ExampleBatch
from monolith_py.io import open_log
from monolith_py.io.codec import encode_examples
from monolith_py.io.log.topics import Topics
from monolith_py.training import Checkpoint, CheckpointMeta, Trainer, save_checkpoint
from monolith_serving.client import RankClient

NUM_FEATURES = 10
NUM_REPLICAS = 3


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000, help="rows of the large model")
    parser.add_argument("--threads", type=int, default=2, help="threads of a replica")
    parser.add_argument("--tables", action="store_true", help="also load the trainer's tables, as without packed rows")
    parser.add_argument("--start-alone", action="store_true", help="leave out the idle replica and the rollback")
    parser.add_argument("--turns", type=int, default=5, help="number of reloads under load")
    options = parser.parse_args()
    print_machine(options.threads)
    if not options.start_alone:
        with tempfile.TemporaryDirectory() as folder:
            bench_idle(Path(folder))
        with tempfile.TemporaryDirectory() as folder:
            bench_rollback(Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        bench_start(Path(folder), options)


def bench_idle(folder: Path) -> None:
    """Memory of a replica whose model has no row; CPU seconds of `monolith --help`."""
    used_s = children_s()
    run(["--help"])
    figure("ops.help_s", children_s() - used_s, "s")
    config = job_file(folder)
    save(config, Trainer(load_job(config)))
    with replicas([config]) as (replica,):
        time.sleep(2)
        figure("serve.rss_mb", memory(replica.pid, "VmRSS") / 1e6, "MB")


def bench_start(folder: Path, options: argparse.Namespace) -> None:
    """Seconds from the start of the process until it can rank, with its files in the page cache."""
    num_rows, threads = options.rows, options.threads
    config = job_file(folder, threads)
    trainer = Trainer(load_job(config))
    generator = np.random.default_rng(0)
    for table in trainer.bags.tables.values():
        for start in range(0, num_rows // NUM_FEATURES, 100_000):
            num = min(100_000, num_rows // NUM_FEATURES - start)
            table.find_or_insert(generator.integers(-(2**62), 2**62, num), now_s=0)
    began_s = time.perf_counter()
    checkpoint = save(config, trainer)
    figure("train.checkpoint_s", time.perf_counter() - began_s, "s")
    packed = sum(file.stat().st_size for file in checkpoint.serving.iterdir())
    figure("serve.packed_bytes_per_row", packed / num_rows, "B")
    del trainer
    bench_reload(folder, checkpoint, options.turns)
    for copied in Checkpoint.all_in(checkpoint.path.parent)[:-1]:
        shutil.rmtree(copied.path)
    job_file(folder, threads)
    for name in ["serve.start", *(["serve.start_from_tables"] if options.tables else [])]:
        if name != "serve.start":
            shutil.rmtree(checkpoint.serving)
            checkpoint.serving.mkdir()
        began_s = time.perf_counter()
        with replicas([config]) as (replica,):
            figure(f"{name}_s", time.perf_counter() - began_s, "s")
            figure(f"{name}_cpu_s", cpu_seconds(replica.pid), "s")
            figure(f"{name}_peak_mb", memory(replica.pid, "VmHWM") / 1e6, "MB")
            figure(f"{name}_rss_mb", memory(replica.pid, "VmRSS") / 1e6, "MB")


def bench_reload(folder: Path, checkpoint: Checkpoint, turns: int) -> None:
    """Time of a request with 100 candidates while a checkpoint of the same size is loaded, over the time before; one request at a time.

    Each turn has its own idle time before it; the ratios are medians over the turns.
    """
    config = job_file(folder, reload=True)
    generator = np.random.default_rng(0)
    items = generator.integers(-(2**62), 2**62, (1000, 100))
    with replicas([config]) as (replica,), RankClient(address_of(config)) as client:
        found: list[tuple[list[float], list[float]]] = []
        loads_s, cpu_s = [], []
        for turn in range(turns + 1):
            idle_until_s = time.perf_counter() + 3
            target, version = f"1.{turn + 1}", ""
            times: tuple[list[float], list[float]] = ([], [])
            is_loading, used_s, began_loading_s = False, 0.0, 0.0
            while version != target:
                if not is_loading and time.perf_counter() > idle_until_s:
                    used_s, began_loading_s = cpu_seconds(replica.pid), time.perf_counter()
                    copy_of(checkpoint, turn + 2, next_seq=turn + 1)
                    is_loading = True
                began_s = time.perf_counter()
                ids = items[len(times[is_loading]) % 1000].tolist()
                version = client.rank(1, ids, timeout_s=30.0, log_impression=False).model_version
                times[is_loading].append(time.perf_counter() - began_s)
            if turn:  # the first one warms up
                found.append(times)
                loads_s.append(time.perf_counter() - began_loading_s)
                cpu_s.append(cpu_seconds(replica.pid) - used_s)
        figure("serve.reload_s", float(np.median(loads_s)), "s")
        figure("serve.reload_cpu_s", float(np.median(cpu_s)), "s")
        for percent in (50, 99):
            idle, busy = ([float(np.percentile(one[place], percent)) for one in found] for place in (False, True))
            figure(f"serve.p{percent}_idle_ms", float(np.median(idle)) * 1000, "ms")
            figure(f"serve.p{percent}_during_reload_vs_idle", float(np.median(np.divide(busy, idle))), "ratio")
        figure("serve.longest_during_reload_ms", 1000 * float(np.median([max(busy) for _, busy in found])), "ms")


def copy_of(checkpoint: Checkpoint, step: int, next_seq: int) -> None:
    """Make a newer checkpoint of the same files."""
    target = Checkpoint.at(checkpoint.path.parent, step)
    hidden = checkpoint.path.parent / "copy"
    shutil.copytree(checkpoint.path, hidden, copy_function=os.link)
    (hidden / "manifest.json").unlink()
    manifest = json.loads(checkpoint.manifest.read_text())
    manifest["meta"] |= {"step": step, "next_seq": next_seq}
    (hidden / "manifest.json").write_text(json.dumps(manifest))
    hidden.rename(target.path)


def bench_rollback(folder: Path) -> None:
    """Seconds from `monolith rollback`, with the trainer stopped, until three replicas serve the older model by its next start."""
    configs = [job_file(folder, number=number) for number in range(NUM_REPLICAS)]
    job = load_job(configs[0])
    checkpoints = Path(job.trainer.checkpoint_dir)
    append_examples(configs[0], seed=0)
    run(["train", "--config", str(configs[0]), "--stop-at-end"])
    good = Checkpoint.all_in(checkpoints)[0]
    append_examples(configs[0], seed=1)
    run(["train", "--config", str(configs[0]), "--stop-at-end"])
    with replicas(configs):
        clients = [RankClient(address_of(config)) for config in configs]
        before = {generation(client) for client in clients}
        began_s = time.perf_counter()
        used_s = children_s()
        run(["rollback", "--config", str(configs[0]), "--to", good.path.name])
        figure("serve.rollback_command_cpu_s", children_s() - used_s, "s")
        with running([["train", "--config", str(configs[0])]]) as (trainer,):
            while any(generation(client) in before for client in clients):
                assert time.perf_counter() < began_s + 120, "no replica follows"
                time.sleep(0.02)
            figure("serve.rollback_s", time.perf_counter() - began_s, "s")
            figure("serve.rollback_trainer_cpu_s", cpu_seconds(trainer.pid), "s")
        for client in clients:
            client.close()


def generation(client: RankClient) -> str:
    return client.rank(1, [1, 2], timeout_s=10.0, log_impression=False).model_version.partition(".")[0]


def job_file(folder: Path, threads: int = 1, number: int = 0, *, reload: bool = False) -> Path:
    """Write the job and, once, its topics; return its file."""
    named = [("user_id", "user_id"), ("item_id", "item_id")] + [(f"f{index}", "item") for index in range(NUM_FEATURES - 2)]
    follows: dict[str, Setting] = {"follow_updates": False, "follow_checkpoints": True} if reload else {}
    serving = {"num_threads": threads, "port_file": f"{folder}/port-{number}", **follows}
    path = folder / f"job-{number}.toml"
    write_job(path, named, {"click": "click"}, {"serving": serving}, feature_settings={"dim": 16})
    return path


def append_examples(config: Path, seed: int, num: int = 4096) -> None:
    job = load_job(config)
    generator = np.random.default_rng(seed)
    now_ms, ones = int(time.time() * 1000), np.ones(256, np.int32)
    for part in range(num // 256):
        sparse = {feature.name: SparseColumn(generator.integers(0, 1000, 256), ones) for feature in job.features}
        examples = ExampleBatch(
            tuple(f"{seed}-{part}-{row}" for row in range(256)),
            np.arange(256),
            np.full(256, now_ms),
            np.zeros(256, np.uint8),
            np.ones(256, np.float32),
            {"click": (generator.random(256) < 0.3).astype(np.float32)},
            FeatureColumns(256, sparse),
        )
        with closing(open_log(job.log)) as log:
            log.append(Topics.of(job.log).examples, [encode_examples(examples)], time_ms=now_ms, partition=0)


def save(config: Path, trainer: Trainer) -> Checkpoint:
    meta = CheckpointMeta("bench", 1, 0, 1, 0, 0, {}, 0, int(time.time() * 1000))
    return save_checkpoint(Path(load_job(config).trainer.checkpoint_dir), trainer, meta, keep=1)


def run(arguments: Sequence[str]) -> None:
    subprocess.run([sys.executable, "-m", "monolith_py.cli", *arguments], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def children_s() -> float:
    """Return the processor time of the children that have ended."""
    times = os.times()
    return times.children_user + times.children_system


def memory(pid: int, field: str) -> int:
    """Return a figure of a process's memory, in bytes."""
    match = re.search(rf"^{field}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert match is not None
    return int(match[1]) * 1024


if __name__ == "__main__":
    main()
