"""Probe: the parts of a click's way add up, and a part that does not come is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from monolith_py.clock import ManualClock
from monolith_py.config import JobConfig, parse_job
from monolith_py.errors import ConfigError, ProbeFailed
from monolith_py.io.codec import decode_action
from monolith_py.io.log.topics import create_topics
from monolith_py.sync import Delta, ModelDigest, RowEncoding, StepMark, encode_delta
from monolith_serving.probe.probe import PROBE_USER, Probe, ProbeTimes
from monolith_serving.probe.view import percentiles, print_probes

START_MS = 1_700_000_000_000
JOIN_S, TRAIN_S, PUBLISH_S, APPLY_S = 0.1, 0.03, 0.17, 0.01
DIGEST = ModelDigest(1, RowEncoding.FP32, None)


def make_job(serving: dict[str, Any] | None = None, joiner: dict[str, Any] | None = None, **item: Any) -> JobConfig:
    return parse_job(
        {
            "name": "probed",
            "log": {"url": "sqlite:///unused", "partitions": 2},
            "kv": {"url": "memory:"},
            "features": [{"name": "user_id", "source": "user_id"}, {"name": "item_id", "source": "item_id", **item}],
            "tasks": [{"name": name, "action": action} for name, action in (("click", "click"), ("seen", "view"), ("again", "click"))],
            "trainer": {"checkpoint_dir": "unused"},
            "joiner": joiner or {},
            "serving": serving or {},
        }
    )


class Job:
    """Joiner, trainer and replica of a job: each does its part a while after the one before, unless it is `away`."""

    def __init__(self, log: Any, clock: EventClock) -> None:
        self.log, self.clock, self.away = log, clock, ""
        self.known: set[int] = set()  # items with a row in the replica
        self.actions: list[tuple[str, int, str]] = []
        self.admit_after, self.seq, self.requests = 1, 0, list[tuple[int, list[int]]]()

    def rank(self, user_id: int, item_ids: Any, *, request_id: str = "", timeout_s: float, log_impression: bool = True) -> Any:
        self.requests.append((user_id, list(item_ids)))
        if log_impression and self.away != "serve":
            append = lambda: [self.log.append("impressions", [request_id.encode()], time_ms=1, partition=p) for p in (0, 1)]  # noqa: E731
            self.clock.later(0.005, append)
        return SimpleNamespace(scores=np.array([[item_id in self.known, 0.5] for item_id in item_ids], np.float32))

    def take(self, value: bytes) -> None:
        """Take one action from the log."""
        action = decode_action(value)
        self.actions.append((action.request_id, action.item_id, action.kind))
        if action.kind != "click" or self.away == "join":
            return
        example = lambda: [self.log.append("examples", [b"." + action.request_id.encode()], time_ms=1, partition=p) for p in (0, 1)]  # noqa: E731
        self.clock.later(JOIN_S, example)
        num_clicks = sum(kind == "click" and item_id == action.item_id for _, item_id, kind in self.actions)
        if num_clicks >= self.admit_after and self.away != "train":
            mark = StepMark(self.clock.now_ms() + round(1000 * (JOIN_S + TRAIN_S)), 1, event_ms=action.time_ms)
            self.clock.later(JOIN_S + TRAIN_S + PUBLISH_S, lambda: self.publish(action.item_id, mark))
            if self.away != "apply":
                self.clock.later(JOIN_S + TRAIN_S + PUBLISH_S + APPLY_S, lambda: self.known.add(action.item_id))

    def publish(self, item_id: int, mark: StepMark) -> None:
        """Append one publication of two deltas; the marks, also those of steps before, are in the last one."""
        rows, early = np.zeros((1, 64), np.uint8), StepMark(mark.time_ms - 500, 9, event_ms=mark.event_ms - 1)
        for fid, last in ((item_id, False), (5, True)):
            fids = np.array([fid], np.int64)
            marks = {"steps": (early, mark), "digest": DIGEST} if last else {}
            delta = Delta(1, self.seq, 0, self.clock.now_ms(), table="item_id", dim=16, fids=fids, rows=rows, **marks)
            self.log.append("updates", [encode_delta(delta)], time_ms=1)
            self.seq += 1


class EventClock(ManualClock):
    """A clock that runs what is due as it advances."""

    def __init__(self) -> None:
        super().__init__(START_MS)
        self._due: list[tuple[float, Callable[[], object]]] = []

    def later(self, delay_s: float, run: Callable[[], object]) -> None:
        self._due.append((self.monotonic_s() + delay_s, run))

    def advance(self, duration_s: float) -> None:
        for _ in range(max(1, round(duration_s * 1000))):
            super().advance(min(duration_s, 0.001))
            due = [one for one in self._due if one[0] <= self.monotonic_s()]
            self._due = [one for one in self._due if one not in due]
            for _, run in due:
                run()


class TimedLog:
    """A log whose reads wait on the clock; the job takes each action that it gets."""

    def __init__(self, log: Any, clock: EventClock) -> None:
        self._log, self._clock = log, clock
        self.running: Job | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def read(self, topic: str, partition: int, offset: int, max_records: int, timeout_s: float = 0.0) -> Any:
        until_s = self._clock.monotonic_s() + timeout_s
        while not (records := self._log.read(topic, partition, offset, max_records)) and self._clock.monotonic_s() < until_s:
            self._clock.advance(0.001)
        return records

    def append(self, topic: str, values: Any, **options: Any) -> int:
        end: int = self._log.append(topic, values, **options)
        for value in values if topic == "actions" and self.running else ():
            self.running.take(value)
        return end


@pytest.fixture
def parts(make_log: Any) -> Callable[..., tuple[Job, Probe]]:
    """Return a function that makes a job and its probe."""

    def make(timeout_s: float = 2.0, **item: Any) -> tuple[Job, Probe]:
        clock, settings = EventClock(), make_job(**item)
        log = TimedLog(make_log(), clock)
        create_topics(log, settings.log)  # type: ignore[arg-type]
        log.running = Job(log, clock)
        return log.running, Probe(settings, log, log.running, clock, timeout_s)  # type: ignore[arg-type]

    return make


def test_the_parts_of_a_click_are_those_of_its_way(parts):
    _, probe = parts()
    times = probe.run()
    assert times.join_s == pytest.approx(JOIN_S, abs=0.003)
    assert times.train_s == pytest.approx(TRAIN_S, abs=0.003)
    assert times.publish_s == pytest.approx(PUBLISH_S, abs=0.003)
    assert times.apply_s == pytest.approx(APPLY_S, abs=0.005)
    assert times.total_s == pytest.approx(JOIN_S + TRAIN_S + PUBLISH_S + APPLY_S, abs=0.005)


def test_a_click_makes_all_tasks_of_one_new_item_positive(parts):
    running, probe = parts()
    assert len(list(probe.run_many(2, 0.5, Random(1)))) == 2
    clicks = [(item_id, kind) for _, item_id, kind in running.actions]
    assert [kind for _, kind in clicks] == ["click", "view"] * 2
    assert clicks[0][0] == clicks[1][0] != clicks[2][0] == clicks[3][0]
    assert {user_id for user_id, _ in running.requests} == {PROBE_USER}
    ids = {item_id for _, item_ids in running.requests for item_id in item_ids}
    assert len(ids) == 4 and all(PROBE_USER < item_id < -(1 << 60) for item_id in ids)


def test_an_item_is_clicked_as_often_as_its_row_needs(parts):
    running, probe = parts(admit_after=3)
    running.admit_after = 3
    assert probe.run().total_s == pytest.approx(JOIN_S + TRAIN_S + PUBLISH_S + APPLY_S, abs=0.005)
    assert len({request_id for request_id, _, _ in running.actions}) == 3
    assert len({item_id for _, item_id, _ in running.actions}) == 1


@pytest.mark.parametrize("part", ["serve", "join", "train", "apply"])
def test_the_part_that_does_not_come_is_named(parts, part):
    running, probe = parts(timeout_s=1.0)
    running.away = part
    with pytest.raises(ProbeFailed, match=f"^{part}: .* must come within 1 s, got none$") as failed:
        probe.run()
    assert failed.value.part == part


def test_ids_that_are_in_use_are_refused(parts):
    running, probe = parts()
    running.known.add(probe._next_id)
    with pytest.raises(ProbeFailed, match="serve: scores of two unknown items must be equal, got two scores"):
        probe.run()
    assert not running.actions


@pytest.mark.parametrize(
    ("job", "rule"),
    [
        (make_job({"log_impressions": False}), "serving.log_impressions must be true for a probe, got false"),
        (make_job(source="item"), r"must have one with source = 'item_id' and admit_after <= 100 for a probe, got none"),
        (make_job(joiner={"emit": "window"}), r"timeout of a probe must be above joiner.window_s with .* 600 s, got 30"),
        (make_job(admit_after=101), r"must have one with source = 'item_id' and admit_after <= 100 for a probe, got \[101\]"),
    ],
)
def test_a_job_that_cannot_be_probed_is_refused(make_log, job, rule):
    with pytest.raises(ConfigError, match=rule):
        Probe(job, make_log(), None, ManualClock())  # type: ignore[arg-type]


def test_percentiles_are_of_each_part_and_of_the_whole(capsys):
    times = [ProbeTimes(0.1 * number, 0.0, 0.1, 0.01) for number in range(1, 101)]
    found = percentiles(times)
    assert json.dumps(found["publish"]) == '{"p50": 0.1, "p99": 0.1, "max": 0.1}'
    assert found["total"]["max"] == 10.11 and found["join"]["p50"] == 5.05
    print_probes(times)
    assert "100 probes" in capsys.readouterr().out.replace("\n", " ").replace("  ", " ")
