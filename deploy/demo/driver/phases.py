"""The phases of a run, each with its bar: history, live, end. All work is done by the real processes; this drives and measures them."""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack, closing
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from monolith_demo.dataset.kuairand import HISTORY_DAYS, NUM_DAYS, Requests, load_stream, load_users, load_videos
from monolith_demo.driver.children import Children, ProcessDied
from monolith_demo.driver.history import Timed, append_records, write_features, write_history
from monolith_demo.driver.job_files import JobFiles
from monolith_demo.driver.live import Progress as ReplayProgress
from monolith_demo.driver.live import Replay
from monolith_demo.report.baselines import linear_learner, running_video_rate
from monolith_demo.report.findings import FROZEN, LINEAR, LIVE, VIDEO_RATE, Findings
from monolith_demo.report.ledger import read_freshness, read_ledger, scrape
from monolith_demo.report.measures import auc
from monolith_demo.report.towers import TowerPass, compare_towers
from monolith_py.clock import SystemClock
from monolith_py.config import JobConfig
from monolith_py.io import Log, open_kv
from monolith_py.io.log.topics import Topics, create_topics
from monolith_py.table import EmbeddingTable, TableStats
from monolith_py.training.checkpoint import Checkpoint
from monolith_serving.client import RankClient

_POLL_S = 0.25
_JOINED, _TRAINED = "monolith_examples_joined_total", "monolith_examples_trained_total"
_CURVE_FROM = 1000  # impressions before an AUC so far is shown


class Demo:
    """One run."""

    def __init__(self, options: argparse.Namespace, files: JobFiles, children: Children, log: Log, console: Console) -> None:
        self._options, self._files, self._children, self._log, self._console = options, files, children, log, console
        self._job: JobConfig = files.job
        self._took_s: dict[str, float] = {}
        self._stream = load_stream()
        self._users, self._videos = load_users(), load_videos()
        self._first = self._stream.first_of_day(HISTORY_DAYS + 1)
        self._stream = self._stream.head(self._stream.first_of_day(HISTORY_DAYS + 1 + options.days))

    def run(self) -> Findings:
        """Run all phases and return what they gave."""
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool, self._progress() as progress:
            self._prepare()
            linear = [pool.submit(linear_learner, self._stream, labels, self._users, self._videos) for labels in self._labels().values()]
            self._write_and_join(progress)
            examples_per_s = self._train_history(progress)
            replay, began_ms, live_s = self._live(progress)
            self._drain(progress)
            towers = self._compare_towers(progress)
            return self._findings(linear, replay, examples_per_s, began_ms, live_s, towers)

    def _labels(self) -> dict[str, npt.NDArray[np.bool_]]:
        return {"long_view": self._stream.long_views, "click": self._stream.clicks}

    def _prepare(self) -> None:
        create_topics(self._log, self._job.log)
        with closing(open_kv(self._job.kv.url)) as kv:
            write_features(kv, self._users, self._videos)

    def _write_and_join(self, progress: Progress) -> None:
        """Write history while the joiner reads it, then let the joiner close the last windows."""
        ports, began_s = self._job.observe, time.monotonic()
        writing = progress.add_task("history: written to the log", total=self._first + int(self._stream.num_actions[: self._first].sum()))
        joining = progress.add_task("history: joined to examples", total=self._first)
        self._children.start("joiner-history", "join", self._files.history)
        noted_s = 0.0

        def note(num_records: int) -> None:
            nonlocal noted_s
            progress.advance(writing, num_records)
            if time.monotonic() - noted_s > 1.0:
                noted_s = time.monotonic()
                self._children.check()
                self._show(progress, joining, ports.joiner_port, _JOINED)

        requests = Requests(self._stream, self._users, self._videos)
        written = write_history(self._log, self._job, self._stream, self._first, requests, note)
        progress.update(writing, completed=written, total=written)
        joined = scrape(ports.joiner_port, _JOINED) or 0.0
        self._children.stop("joiner-history")
        self._children.start("joiner-history", "join", self._files.history, "--stop-at-end")
        self._watch(progress, joining, "joiner-history", ports.joiner_port, _JOINED, joined)
        self._took_s["history written and joined"] = time.monotonic() - began_s

    def _train_history(self, progress: Progress) -> float:
        """Train history in one pass, keep its checkpoint for the frozen replica, and return examples/s."""
        training = progress.add_task("history: trained, one pass", total=self._first)
        began_s = time.monotonic()
        self._children.start("trainer-history", "train", self._files.history, "--stop-at-end")
        port = self._job.observe.trainer_port
        examples_per_s = self._watch(progress, training, "trainer-history", port, _TRAINED, 0.0)
        self._took_s["history trained"] = time.monotonic() - began_s
        checkpoints = Path(self._job.trainer.checkpoint_dir)
        checkpoint = Checkpoint.newest(checkpoints)
        if checkpoint is None:
            raise ProcessDied(f"the trainer left no checkpoint in {checkpoints}")
        shutil.copytree(checkpoint.path, Path(self._files.frozen_job.trainer.checkpoint_dir) / checkpoint.path.name)
        return examples_per_s

    def _live(self, progress: Progress) -> tuple[Replay, int, float]:
        """Replay the last days through the processes; return the replay, when it began (wall clock) and the seconds it took."""
        files, children, serving = self._files, self._children, self._job.serving
        addresses = {LIVE: f"{serving.host}:{serving.port}", FROZEN: f"{serving.host}:{self._files.frozen_job.serving.port}"}
        starting = progress.add_task("live: starting joiner, trainer and two replicas", total=2)
        for name, command, config in (
            ("frozen-replica", "serve", files.frozen),
            ("live-replica", "serve", files.live),
            ("trainer", "train", files.live),
            ("joiner", "join", files.live),
        ):
            children.start(name, command, config)
        for name, address in (("live-replica", addresses[LIVE]), ("frozen-replica", addresses[FROZEN])):
            children.wait_serving(name, address)
            progress.advance(starting)
        replaying = progress.add_task("live: scored, then learnt", total=len(self._stream) - self._first)

        def note(at: ReplayProgress) -> None:
            progress.update(replaying, completed=at.num_answered, description=self._live_text(replay, at))

        def append(records: list[Timed]) -> None:
            append_records(self._log, Topics.of(self._job.log).actions, self._job.log.partitions, records)

        with ExitStack() as stack:
            clients = [stack.enter_context(RankClient(address)) for address in addresses.values()]
            replay = Replay(self._stream, self._first, clients, len(self._job.tasks), append, SystemClock())
            began_ms = SystemClock().now_ms()
            live_s = replay.run(self._options.live_seconds * self._options.days / (NUM_DAYS - HISTORY_DAYS), note, children.check)
        self._took_s["live"] = live_s
        return replay, began_ms, live_s

    def _live_text(self, replay: Replay, at: ReplayProgress) -> str:
        """Return what the bar of the live phase says: the day and the AUC so far."""
        day = int(self._stream.days[min(self._first + at.num_answered, len(self._stream) - 1)])
        if at.num_answered < _CURVE_FROM:
            return f"live: scored, then learnt, day {day}"
        labels = self._stream.long_views[self._first : self._first + at.num_answered]
        live, frozen = (auc(labels, served.scores[: at.num_answered, 0].astype(np.float64)) for served in replay.served)
        behind = f", {at.lag_s:.0f} s behind" if at.lag_s >= 1 else ""
        return f"live: day {day}, AUC {live:.4f}, frozen {frozen:.4f}{behind}"

    def _drain(self, progress: Progress) -> None:
        """Stop everything; join and train what is left, so that nothing is under way when it is counted."""
        began_s = time.monotonic()
        ending = progress.add_task("end: last windows closed, last examples trained", total=4)
        children = self._children
        steps: tuple[Callable[[], object], ...] = (
            lambda: children.stop("live-replica", "frozen-replica", "joiner"),
            lambda: self._run_to_end("joiner-end", "join"),
            lambda: children.stop("trainer"),
            lambda: self._run_to_end("trainer-end", "train"),
        )
        for step in steps:
            step()
            progress.advance(ending)
        self._took_s["end"] = time.monotonic() - began_s

    def _compare_towers(self, progress: Progress) -> dict[str, TowerPass]:
        """Let the job's tower and the dense one learn the run's examples side by side."""
        began_s = time.monotonic()
        comparing = progress.add_task("end: sparse tower against dense", total=len(self._stream))
        live_from_ms = int(self._stream.times_ms[self._first])
        towers = compare_towers(self._log, self._job, live_from_ms, lambda num: progress.advance(comparing, num))
        self._took_s["towers compared"] = time.monotonic() - began_s
        return towers

    def _run_to_end(self, name: str, command: str) -> None:
        self._children.start(name, command, self._files.live, "--stop-at-end")
        self._children.finish(name)

    def _findings(
        self,
        linear: list[Future[npt.NDArray[np.float64]]],
        replay: Replay,
        examples_per_s: float,
        began_ms: int,
        live_s: float,
        towers: dict[str, TowerPass],
    ) -> Findings:
        stream, first = self._stream, self._first
        predictions = {}
        for task, (label, values) in enumerate(self._labels().items()):
            live, frozen = (served.scores[:, task].astype(np.float64) for served in replay.served)
            predictions[label] = {
                LIVE: live,
                FROZEN: frozen,
                LINEAR: linear[task].result()[first:],
                VIDEO_RATE: running_video_rate(stream.videos, values)[first:],
            }
        checkpoint = Checkpoint.newest(Path(self._job.trainer.checkpoint_dir))
        assert checkpoint is not None
        ages_s, rows = read_freshness(Path(self._job.serving.freshness_log or ""), began_ms)
        return Findings(
            days=stream.days[first:],
            labels={label: values[first:] for label, values in self._labels().items()},
            predictions=predictions,
            freshness_s=ages_s,
            freshness_rows=rows,
            rank_s=replay.served[0].latencies_s,
            history_examples=first,
            history_examples_per_s=examples_per_s,
            live_examples_per_s=(len(stream) - first) / live_s,
            live_s=live_s,
            table_stats=_table_stats(checkpoint, self._job),
            ledger=read_ledger(self._log, self._job),
            trained=checkpoint.meta.examples_trained,
            history_impressions=first,
            num_versions=len(set(replay.served[0].versions)),
            towers=towers,
            took_s=self._took_s,
        )

    def _show(self, progress: Progress, task: TaskID, port: int, metric: str, before: float = 0.0) -> float:
        """Set a bar to a process's counter and return it; 0 while the process does not answer."""
        value = scrape(port, metric)
        if value:
            progress.update(task, completed=before + value)
        return value or 0.0

    def _watch(self, progress: Progress, task: TaskID, name: str, port: int, metric: str, before: float) -> float:
        """Wait for the process `name` to end while its counter moves the bar; return the counter's rate per second."""
        seen: list[tuple[float, float]] = []
        while self._children.is_running(name):
            value = self._show(progress, task, port, metric, before)
            if value and (not seen or value > seen[-1][1]):
                seen.append((time.monotonic(), value))
            time.sleep(_POLL_S)
        self._children.finish(name)
        progress.update(task, completed=progress.tasks[task].total)
        if len(seen) < 2:
            return float("nan")
        return (seen[-1][1] - seen[0][1]) / (seen[-1][0] - seen[0][0])

    def _progress(self) -> Progress:
        return Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=self._console)


def _table_stats(checkpoint: Checkpoint, job: JobConfig) -> dict[str, TableStats]:
    return {feature.name: EmbeddingTable.restore(checkpoint.table(feature.name)).stats() for feature in job.features}
