"""Freshness of served scores from a click, without and with a stream of row updates; bytes of a row; the cost of updates for a ranking.

All processes of the product are real and share the machine: joiner, trainer, one replica, `monolith probe`. For the cost of updates a
replica gets the recorded updates again, in their own time, without the trainer beside it. All is measured in turns, and a figure is the
median of its turns, so that a burst of other work on the machine spoils one turn. Expected with the defaults: ARCHITECTURE.md, "Freshness,
hop by hop".
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from figures import cpu_seconds, figure, print_machine
from job_file import write_job
from replica_processes import metric, p99_ratio, rank_for
from sync_load import ITEM_FEATURES, NUM_FIDS

from monolith_demo.driver.ports import free_ports
from monolith_py.config import load_job
from monolith_py.training import Checkpoint
from monolith_serving.client import RankClient

DIM, ROWS_PER_S = 16, 110_000  # some of the rows are the same within a publication
_PARTS = ("join", "train", "publish", "apply")


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--probes", type=int, default=50, help="clicks of a turn")
    parser.add_argument("--seconds", type=float, default=8.0, help="length of a turn with or without updates")
    parser.add_argument("--turns", type=int, default=5, help="number of turns of each kind")
    parser.add_argument("--rows", type=float, default=ROWS_PER_S, help="rows to update in a second")
    parser.add_argument("--warmup", type=float, default=20.0, help="seconds of updates before the first turn; all rows exist after 19")
    parser.add_argument("--set", default=[], nargs="*", metavar="SECTION.KEY=VALUE", help="settings, for a comparison")
    options = parser.parse_args()
    print_machine(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bench_freshness(folder, options)
        bench_cost(folder, options)


class Job:
    """One job in a folder, with its processes."""

    def __init__(self, folder: Path, checkpoints: Path, changes: list[str]) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.config = folder, folder / "job.toml"
        port, self.trainer_port, self.serving_port = free_ports(3)
        named = [("user_id", "user_id"), ("item_id", "item_id"), *((feature, "item") for feature in ITEM_FEATURES)]
        settings: dict[str, dict[str, Any]] = {
            "joiner": {"request_terminal_actions": ["end"]},
            "model.sparsity": {"preset": "dsl_online"},
            "trainer": {"checkpoint_dir": str(checkpoints), "checkpoint_interval_s": 20.0},
            "serving": {"port": port},
            "observe": {"trainer_port": self.trainer_port, "serving_port": self.serving_port},
        }
        for change in changes:
            name, _, value = change.partition("=")
            section, _, key = name.rpartition(".")
            settings.setdefault(section, {})[key] = json.loads(value)
        tasks = {"is_click": "click", "long_view": "long_view"}
        self.job = write_job(self.config, named, tasks, settings, feature_settings={"dim": DIM})
        self.address = f"127.0.0.1:{port}"

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

    @property
    def rows_applied(self) -> float:
        """Return the number of rows that the replica has applied."""
        return metric(self.serving_port, "monolith_rows_applied_total")


def bench_freshness(folder: Path, options: argparse.Namespace) -> None:
    """Probes of a job without other traffic, then with updates of so many rows."""
    job = Job(folder / "live", folder / "checkpoints", options.set)
    with ExitStack() as stack:
        children = [job.monolith(stack, command) for command in ("join", "train", "serve")]
        job.wait_for_port()
        probe(job, 5)  # first calls of each process
        print_freshness("sync.freshness_idle", [probe(job, options.probes) for _ in range(options.turns)])
        load = job.start(stack, str(Path(__file__).with_name("sync_load.py")), "impressions", str(job.config), str(options.rows))
        time.sleep(options.warmup)
        began_s, before = time.monotonic(), job.rows_applied
        used_s = [cpu_seconds(child.pid) for child in (*children, load)]
        found = [probe(job, options.probes) for _ in range(options.turns)]
        applied = job.rows_applied - before
        figure("sync.updated_rows_per_s", applied / (time.monotonic() - began_s), "rows/s")
        for role, child, used in zip(("joiner", "trainer", "replica", "feeder"), (*children, load), used_s, strict=True):
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
    job = Job(folder / "again", alone, options.set)
    script = str(Path(__file__).with_name("sync_load.py"))
    updates_offset = Checkpoint(alone / oldest.path.name).meta.updates_offset
    with ExitStack() as stack:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        load = job.start(stack, script, "updates", str(job.config), recorded, str(updates_offset), **pipes)
        assert load.stdin is not None and load.stdout is not None and load.stdout.readline() == "ready\n"
        job.monolith(stack, "serve")
        job.wait_for_port()
        client = stack.enter_context(RankClient(job.address))
        rank_for(client, 3.0, NUM_FIDS)
        turns, rows, took_s = [], 0.0, 0.0
        for _ in range(options.turns):
            idle = rank_for(client, options.seconds, NUM_FIDS)
            before, began_s = job.rows_applied, time.monotonic()
            print(options.seconds, file=load.stdin, flush=True)
            turns.append((idle, rank_for(client, options.seconds, NUM_FIDS)))
            rows += job.rows_applied - before
            took_s += time.monotonic() - began_s
            assert load.stdout.readline() == "turn over\n"
    figure("sync.replayed_rows_per_s", rows / took_s, "rows/s")
    for place, name in enumerate(("idle", "during_sync")):
        figure(f"serve.p99_{name}_ms", 1000 * float(np.median([np.percentile(turn[place], 99) for turn in turns])), "ms")
    figure("serve.p99_during_sync_vs_idle", p99_ratio(turns), "ratio")


def probe(job: Job, count: int) -> dict[str, dict[str, float]]:
    """Return the times of `monolith probe`, by part and percentile."""
    options = ["--config", str(job.config), "--count", str(count), "--interval", "0.15", "--timeout", "60", "--json"]
    command = [sys.executable, "-m", "monolith_py.cli", "probe", "--address", job.address, *options]
    answer = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    found: dict[str, dict[str, float]] = answer["seconds"]
    return found


def print_freshness(name: str, turns: list[dict[str, dict[str, float]]]) -> None:
    """Print the medians over the turns of the times of the whole way, and of each part."""
    for part in ("total", *_PARTS):
        for percent in ("p50", "p99"):
            label = f"{name}_{percent}_s" if part == "total" else f"{name}_{part}_{percent}_s"
            figure(label, float(np.median([turn[part][percent] for turn in turns])), "s")
    figure(f"{name}_max_s", max(turn["total"]["max"] for turn in turns), "s")


if __name__ == "__main__":
    main()
