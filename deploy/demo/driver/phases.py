"""Phases of a run: history, live, end. The processes do all work; a phase drives and measures them, with a progress bar each."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from monolith_demo.driver.arms import SHADOW, start_shadow
from monolith_demo.driver.children import ProcessDied
from monolith_demo.driver.context import CounterBar, RunContext
from monolith_demo.driver.history import Timed, append_records, history_actions, write_features, write_history
from monolith_demo.driver.live import Mark, Progress, Replay
from monolith_demo.report.towers import TowerPass, compare_towers
from monolith_py.clock import SystemClock
from monolith_py.config import load_job
from monolith_py.io import open_kv
from monolith_py.io.log.topics import Topics, create_topics
from monolith_py.training import Checkpoint, auc
from monolith_serving.client import RankClient

_JOINED, _TRAINED = "monolith_examples_joined_total", "monolith_examples_trained_total"
_CHECK_S = 1.0
_LEAST_FOR_AUC = 1000  # requests


@dataclass(frozen=True)
class LivePhase:
    """Result of the live phase."""

    replay: Replay
    began_ms: int  # wall clock
    took_s: float


def prepare(run: RunContext) -> None:
    """Create the topics and write the stored features."""
    create_topics(run.log, run.job.log)
    with closing(open_kv(run.job.kv)) as kv:
        write_features(kv, run.data.users, run.data.items)


def write_and_join(run: RunContext) -> None:
    """Write history while a joiner reads it; a second joiner closes the last windows."""
    data, children = run.data, run.children
    num_records = data.num_history + int(data.stream.num_actions[history_actions(data.stream, data.num_history)].sum())
    writing = run.progress.add_task("history: written to the log", total=num_records)
    joining = CounterBar(run, "history: joined to examples", _num_examples(run), run.job.observe.joiner_port, _JOINED)
    children.start("joiner-history", "join", run.files.history)
    checked_s = 0.0

    def note(num_records: int) -> None:
        nonlocal checked_s
        run.progress.advance(writing, num_records)
        if time.monotonic() - checked_s > _CHECK_S:
            checked_s = time.monotonic()
            children.check()
            joining.update()

    written = write_history(run.log, run.job, data.stream, data.num_history, data.requests, note)
    run.progress.update(writing, completed=written, total=written)
    joining.keep()
    children.stop("joiner-history")
    children.start("joiner-history", "join", run.files.history, "--stop-at-end")
    joining.follow("joiner-history")


def train_history(run: RunContext) -> float:
    """Train history in one pass, copy the checkpoint for the replicas that follow no updates, and return examples/s.

    Raises:
        ProcessDied: the trainer failed, or wrote no checkpoint.
    """
    training = CounterBar(run, "history: trained, one pass", _num_examples(run), run.job.observe.trainer_port, _TRAINED)
    run.children.start("trainer-history", "train", run.files.history, "--stop-at-end")
    examples_per_s = training.follow("trainer-history")
    checkpoints = Path(run.job.trainer.checkpoint_dir)
    checkpoint = Checkpoint.newest(checkpoints)
    if checkpoint is None:
        raise ProcessDied(f"trainer-history must leave a checkpoint in {checkpoints}, got none")
    for name, path in run.files.replicas.items():
        if name != "live":
            shutil.copytree(checkpoint.path, Path(load_job(path).trainer.checkpoint_dir) / checkpoint.path.name)
    return examples_per_s


def _num_examples(run: RunContext) -> int:
    """Return the number of examples of history."""
    return int(run.data.stream.offsets[run.data.num_history])


def replay_live(run: RunContext, duration_s: float, marks: Sequence[Mark] = ()) -> LivePhase:
    """Start joiner, trainer and all replicas, and replay the live requests through them within about `duration_s`."""
    data, topics = run.data, Topics.of(run.job.log)
    addresses = _start_live(run)
    replaying = run.progress.add_task("live: scored, then learnt", total=len(data.stream) - data.num_history)

    def note(at: Progress) -> None:
        run.progress.update(replaying, completed=at.num_answered, description=_live_text(run, replay, at))

    def append(records: list[Timed]) -> None:
        append_records(run.log, topics.actions, run.job.log.partitions, records)

    with ExitStack() as stack:
        clients = [stack.enter_context(RankClient(address)) for address in addresses]
        replay = Replay(data.stream, data.num_history, clients, len(run.job.tasks), append, SystemClock())
        began_ms = SystemClock().now_ms()
        took_s = replay.run(duration_s, note, run.children.check, marks)
    return LivePhase(replay, began_ms, took_s)


def _start_live(run: RunContext) -> list[str]:
    """Start the processes of the live phase and return the addresses of all replicas, which serve: the live one first."""
    files, children = run.files, run.children
    starting = run.progress.add_task(f"live: starting joiner, trainer and {len(files.replicas)} replicas", total=len(files.replicas))
    if files.shadow is not None:
        start_shadow(run)
    for name, path in reversed(files.replicas.items()):
        children.start(_process(name), "serve", path)
    children.start("trainer", "train", files.live)
    children.start("joiner", "join", files.live)
    addresses = []
    for name, path in files.replicas.items():
        serving = load_job(path).serving
        addresses.append(f"{serving.host}:{serving.port}")
        children.wait_serving(_process(name), addresses[-1])
        run.progress.advance(starting)
    return addresses


def _process(replica: str) -> str:
    return f"{replica}-replica"


def _live_text(run: RunContext, replay: Replay, at: Progress) -> str:
    """Return the text of the live bar: the time and the AUC so far."""
    data, first = run.data, run.data.num_history
    when = data.when(min(first + at.num_answered, len(data.stream) - 1))
    if at.num_answered < _LEAST_FOR_AUC:
        return f"live: scored, then learnt, {when}"
    begin, end = data.stream.offsets[[first, first + at.num_answered]]
    labels = next(iter(data.labels.values()))[begin:end]
    live, frozen = (auc(labels, served.scores[: end - begin, 0].astype(np.float64)) for served in (replay.served[0], replay.served[-1]))
    behind = f", {at.lag_s:.0f} s behind" if at.lag_s >= 1 else ""
    return f"live: {when}, AUC {live:.4f}, frozen {frozen:.4f}{behind}"


def drain(run: RunContext) -> None:
    """Stop the processes, then join and train the records that remain: the counts at the end are of the whole stream."""
    children = run.children
    ending = run.progress.add_task("end: last windows closed, last examples trained", total=4)
    steps: tuple[Callable[[], object], ...] = (
        lambda: children.stop(*map(_process, run.files.replicas), SHADOW, "joiner"),
        lambda: run.run_to_end("joiner-end", "join"),
        lambda: children.stop("trainer"),
        lambda: run.run_to_end("trainer-end", "train"),
    )
    for step in steps:
        step()
        run.progress.advance(ending)


def train_both_towers(run: RunContext) -> dict[str, TowerPass]:
    """Train the job's tower and a dense one on the run's examples, and return both passes by name."""
    stream = run.data.stream
    comparing = run.progress.add_task("end: sparse tower against dense", total=len(stream))
    live_from_ms = int(stream.times_ms[run.data.num_history])
    return compare_towers(run.log, run.job, live_from_ms, lambda num: run.progress.advance(comparing, num))
