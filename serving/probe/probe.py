"""Probe: appends a click and waits until the served score changes, with the time of each part of the way.

One probe ranks two items that nobody has seen: their scores are equal, as fids without a row read zeros. Then it serves the first one
alone, sends the actions of all tasks for it, and waits until the two scores differ. With one candidate and every task positive, all labels
are known at once, so the joiner waits for no window.

The job learns one example of `PROBE_USER` from each probe, positive in all tasks. User and items have ids of their own from `FIRST_ID` on,
which no app should use.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

import numpy as np

from monolith_py.clock import Clock
from monolith_py.config import JobConfig
from monolith_py.data.events import Action
from monolith_py.errors import ConfigError, OffsetTrimmed, ProbeFailed
from monolith_py.io import Log, Record
from monolith_py.io.codec import encode_action
from monolith_py.io.log.topics import Topics, partition_of
from monolith_py.sync import decode_delta
from monolith_serving.client import RankClient

# Ids of the probe: its user, and from there on two new items for each probe.
FIRST_ID = PROBE_USER = -(1 << 62)
# Records of one read, longest wait of one, and pause between two looks at the scores.
_READ_RECORDS, _READ_S, _LOOK_S = 64, 0.05, 0.002
# Most clicks that may be needed before an item gets a row.
_MOST_SIGHTINGS = 100


@dataclass(frozen=True)
class ProbeTimes:
    """Parts of the way of one click, in seconds of the probe's clock; `train_s` ends at the trainer's mark, on the trainer's wall clock."""

    join_s: float  # click appended -> example in the log
    train_s: float  # -> step of the trainer
    publish_s: float  # -> row in the log
    apply_s: float  # -> another score

    @property
    def total_s(self) -> float:
        """Return the time from the click to another score."""
        return self.join_s + self.train_s + self.publish_s + self.apply_s


class Probe:
    """Probes one job through one replica. For one thread."""

    def __init__(self, job: JobConfig, log: Log, client: RankClient, clock: Clock, timeout_s: float = 30.0) -> None:
        """Check that the job can be probed.

        Raises:
            ConfigError: the job logs no impressions, has no feature of the item's id, admits fids too late, or waits for windows.
        """
        self._topics, self._log, self._client, self._clock, self._timeout_s = Topics.of(job.log), log, client, clock, timeout_s
        self._actions = sorted({action for task in job.tasks for action in task.actions})
        if not job.serving.log_impressions:
            raise ConfigError("serving.log_impressions must be true for a probe, got false: its click needs a joined impression")
        if job.joiner.emit == "window" and job.joiner.window_s >= timeout_s:
            rule = f"timeout of a probe must be above joiner.window_s with joiner.emit = 'window', {job.joiner.window_s:.0f} s"
            raise ConfigError(f"{rule}, got {timeout_s:.0f}")
        needed = [feature.admit_after for feature in job.features if feature.source == "item_id"]
        if not needed or min(needed) > _MOST_SIGHTINGS:
            rule = f"features must have one with source = 'item_id' and admit_after <= {_MOST_SIGHTINGS} for a probe"
            raise ConfigError(f"{rule}, got {needed or 'none'}")
        self._num_sightings = min(needed)
        self._num_partitions = log.num_partitions(self._topics.impressions)
        self._next_id = FIRST_ID + 1 + (clock.now_ms() << 12)

    def run_many(self, count: int, interval_s: float, random: Random) -> Iterator[ProbeTimes]:
        """Yield the times of `count` clicks. Pauses between them are random around `interval_s`: they keep no step with publications."""
        for number in range(count):
            if number:
                self._clock.sleep(2 * interval_s * random.random())
            yield self.run()

    def run(self) -> ProbeTimes:
        """Return the times of one click.

        Raises:
            ProbeFailed: a part of the way took longer than the timeout.
            RankFailed: the replica refused.
            LogError: the log refused.
        """
        items = (self._next_id, self._next_id + 1)
        self._next_id += 2
        if not self._are_equal(items):
            raise ProbeFailed("serve", f"scores of two unknown items must be equal, got two scores: ids from {items[0]} on are in use")
        for _ in range(self._num_sightings - 1):
            self._click(items[0])
        request_id, place = self._serve(items[0])
        updates = self._log.end_offset(self._topics.updates)
        clicked_s, clicked_ms = self._clock.monotonic_s(), self._clock.now_ms()
        self._append(request_id, items[0], clicked_ms)
        joined_s = self._wait_for_example(request_id, place)
        published_s, trained_ms = self._wait_for_row(items[0], updates, clicked_ms)
        served_s = self._wait_for_score(items)
        # The mark is on another clock: it counts as far as it fits between its neighbours.
        trained_s = min(max(clicked_s + (trained_ms - clicked_ms) / 1000, joined_s), published_s)
        served_s = max(served_s, published_s)
        return ProbeTimes(joined_s - clicked_s, trained_s - joined_s, published_s - trained_s, served_s - published_s)

    def _click(self, item_id: int) -> None:
        """Click an item, and wait until the example is in the log."""
        request_id, place = self._serve(item_id)
        self._append(request_id, item_id, self._clock.now_ms())
        self._wait_for_example(request_id, place)

    def _serve(self, item_id: int) -> tuple[str, tuple[int, int]]:
        """Rank an item and wait for the impression in the log; return its id, and the end of the examples before: partition, offset."""
        request_id = f"probe-{uuid.uuid4().hex}"
        partition = partition_of(request_id, self._num_partitions)
        impressions = self._log.end_offset(self._topics.impressions, partition)
        place = (partition, self._log.end_offset(self._topics.examples, partition))
        self._client.rank(PROBE_USER, [item_id], request_id=request_id, timeout_s=self._timeout_s)
        for record in self._records("serve", self._topics.impressions, partition, impressions):
            if request_id.encode() in record.value:
                break
        return request_id, place

    def _append(self, request_id: str, item_id: int, time_ms: int) -> None:
        values = [encode_action(Action(request_id, item_id, action, time_ms)) for action in self._actions]
        self._log.append(self._topics.actions, values, time_ms=time_ms, partition=partition_of(request_id, self._num_partitions))

    def _wait_for_example(self, request_id: str, place: tuple[int, int]) -> float:
        """Return when the example of a request is in the log, monotonic."""
        for record in self._records("join", self._topics.examples, *place):
            if request_id.encode() in record.value:
                break
        return self._clock.monotonic_s()

    def _wait_for_row(self, item_id: int, offset: int, clicked_ms: int) -> tuple[float, int]:
        """Return when the row of an item is in the log, monotonic, and the time of the first training step after the click, wall clock."""
        fid = item_id.to_bytes(8, "little", signed=True)
        seen_s: float | None = None
        for record in self._records("train", self._topics.updates, 0, offset):
            if seen_s is None:
                if fid not in record.value or item_id not in decode_delta(record.value).fids:
                    continue
                seen_s = self._clock.monotonic_s()
            delta = decode_delta(record.value)
            if delta.digest is not None:  # the last one of the publication has the marks
                return seen_s, min((mark.time_ms for mark in delta.steps if mark.event_ms >= clicked_ms), default=delta.published_ms)
        raise AssertionError("unreachable: `_records` ends with an error")

    def _wait_for_score(self, items: tuple[int, int]) -> float:
        """Return when the scores of the items differ, monotonic."""
        fails = self._deadline("apply", "a score that differs")
        while True:
            if not self._are_equal(items):
                return self._clock.monotonic_s()
            fails()
            self._clock.sleep(_LOOK_S)

    def _are_equal(self, items: tuple[int, int]) -> bool:
        """Return whether two items have the same scores."""
        scores = self._client.rank(PROBE_USER, items, timeout_s=self._timeout_s, log_impression=False).scores  # (2, tasks)
        return np.array_equal(scores[0], scores[1])

    def _records(self, part: str, topic: str, partition: int, offset: int) -> Iterator[Record]:
        """Yield the records from `offset` on, for ever; raise when it takes too long."""
        fails = self._deadline(part, f"a record in {topic!r}[{partition}]")
        while True:
            try:
                records = self._log.read(topic, partition, offset, _READ_RECORDS, _READ_S)
            except OffsetTrimmed as error:
                offset = error.start
                continue
            for record in records:
                offset = record.offset + 1
                yield record
            fails()

    def _deadline(self, part: str, wanted: str) -> Callable[[], None]:
        """Return a function that raises once the timeout is over."""
        until_s = self._clock.monotonic_s() + self._timeout_s

        def check() -> None:
            if self._clock.monotonic_s() >= until_s:
                raise ProbeFailed(part, f"{wanted} must come within {self._timeout_s:.0f} s, got none")

        return check
