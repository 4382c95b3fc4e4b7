"""Timeline of a log: slices of event time, each with the requests to score and the examples that became known.

Letters: B candidates of a slice, K emissions of a slice.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from monolith_py.clock import Clock, SystemClock
from monolith_py.config import JobConfig
from monolith_py.data.columns import FeatureColumns, Int64Array
from monolith_py.data.examples import ExampleBatch
from monolith_py.data.schema import Schema
from monolith_py.errors import ConfigError
from monolith_py.io import Log
from monolith_py.io.codec.picked_columns import pick_features
from monolith_py.io.codec.wire_patterns import WirePatterns
from monolith_py.io.log.topics import Topics
from monolith_streaming.backtest.fixed_log import FixedLog
from monolith_streaming.backtest.options import BacktestOptions
from monolith_streaming.backtest.partition import Arrived, Joined, Joining, Known, PartitionJoiner
from monolith_streaming.joiner.emit import examples_of
from monolith_streaming.joiner.rules import FOREVER_MS, Rules

# Offsets at the end of a partition among which its last record is looked for: the end of a transaction of Kafka takes one.
_LAST_RECORDS = (1, 10, 1000)


@dataclass(frozen=True)
class Candidates:
    """B candidates of whole requests, in order of event time."""

    request_ids: tuple[str, ...]  # (B,)
    item_ids: Int64Array  # (B,)
    user_ids: Int64Array  # (B,)
    times_ms: Int64Array  # (B,)
    numbers: Int64Array  # (B,) number of the candidate in the timeline
    features: FeatureColumns  # B rows


@dataclass(frozen=True)
class Slice:
    """Event time [start_ms, end_ms): first all candidates are scored, then all examples are learnt.

    The final labels of a candidate are the greatest of all its emissions, in the bits of `LabelBits`.
    """

    start_ms: int
    end_ms: int
    candidates: Candidates | None  # None without one
    examples: ExampleBatch | None  # in the order in which they are learnt; None without one
    known_numbers: Int64Array  # (K,) candidate of each emission, those of negatives that were sampled away included
    known_labels: npt.NDArray[np.uint64]  # (K,) in the bits of `LabelBits`
    num_refused: int = 0  # records passed over since the slice before: malformed, too late, or actions without a candidate


class Timeline:
    """Slices of a job's log up to its present end; every iteration reads the log again.

    An event that is later than `max_out_of_orderness_s` falls into the slice in which it arrives. The list of all slices can serve several
    runs and jobs, if these differ neither in features and tasks nor in the joiner's settings.

    The example of a window that closes is known at its deadline; the online joiner emits it `max_out_of_orderness_s` later, when its
    watermark passes. Memory: the requests of `window_s` + `allowed_lateness_s`; with `order` "time" their parsed impressions, too.
    """

    def __init__(self, job: JobConfig, log: Log, options: BacktestOptions, clock: Clock | None = None) -> None:
        """Look at the present ends of the topics. `clock`: wall clock; events more than a day ahead of it are refused.

        Raises:
            ConfigError: the log has no impression from `start_ms` on, or none in the range, or topics differ in their partitions.
            TopicMissing: the log has no topic of impressions or of actions.
        """
        topics = Topics.of(job.log)
        self._log = FixedLog(log, (topics.impressions, topics.actions))
        counts = {topic: self._log.num_partitions(topic) for topic in (topics.impressions, topics.actions)}
        if len(set(counts.values())) > 1:
            raise ConfigError(f"topics must have the same number of partitions, got {counts}")
        self._job, self._options = job, options
        self._rules, self._patterns = Rules.of(job), WirePatterns(Schema.of(job).dense_dims)
        end_ms = FOREVER_MS if options.end_ms is None else options.end_ms
        self._joining = Joining(self._log, job, self._rules, self._patterns, (clock or SystemClock()).now_ms(), end_ms)
        _check_range(self._log, topics.impressions, options)

    def last_ms(self) -> int | None:
        """Return the time of the last impression in the log, None without one near its end."""
        topic, times = Topics.of(self._job.log).impressions, []
        for partition in range(self._log.num_partitions(topic)):
            start, end = self._log.start_offset(topic, partition), self._log.end_offset(topic, partition)
            for num in _LAST_RECORDS:
                if end > start and (records := self._log.read(topic, partition, max(start, end - num), num)):
                    times.append(records[-1].time_ms)
                    break
        return max(times, default=None)

    def __iter__(self) -> Iterator[Slice]:
        partitions = [
            PartitionJoiner(self._joining, number) for number in range(self._log.num_partitions(Topics.of(self._job.log).actions))
        ]
        cutter = _Cutter(self._rules, self._patterns, self._options)
        num_candidates = 0
        while running := [partition for partition in partitions if not partition.is_done]:
            partition = min(running, key=lambda one: one.reached_ms)
            joined = partition.step(num_candidates)
            num_candidates += sum(len(one.impression.item_ids) for one in joined.arrived)
            cutter.add(joined)
            yield from cutter.cut(min(one.reached_ms for one in partitions))


class _Cutter:
    """Sorts requests and emissions by event time and cuts them into slices, once each slice is complete."""

    def __init__(self, rules: Rules, patterns: WirePatterns, options: BacktestOptions) -> None:
        self._rules, self._patterns, self._options = rules, patterns, options
        self._by_time = options.order == "time"
        # Time from the end of a slice until all of its emissions exist.
        self._lag_ms = rules.forget_ms(0) if self._by_time else 0
        self._arrived: list[tuple[int, int, Arrived]] = []  # heap of (event time, number, request)
        self._known: list[tuple[int, int, int, Known]] = []  # heap of (event time of learning, number or 0, place, emission)
        self._num_known = self._num_refused = 0
        self._cut_ms = 0  # end of the last slice

    def add(self, joined: Joined) -> None:
        """Add the result of a step of a partition."""
        for one in joined.arrived:
            heapq.heappush(self._arrived, (max(one.impression.time_ms, self._cut_ms), one.number, one))
        for known in joined.known:
            time_ms = known.waiting.request.time_ms if self._by_time else known.emission.known_ms
            self._num_known += 1
            number = known.number if self._by_time else 0
            heapq.heappush(self._known, (max(time_ms, self._cut_ms), number, self._num_known, known))
        self._num_refused += joined.num_refused

    def cut(self, reached_ms: int) -> Iterator[Slice]:
        """Yield the slices that are complete when all partitions have reached `reached_ms`."""
        while self._arrived or self._known:
            first_ms = min([heap[0][0] for heap in (self._arrived, self._known) if heap])
            start_ms, end_ms = self._options.slice_of(first_ms)
            if end_ms + self._lag_ms > reached_ms:
                return
            yield self._slice(max(start_ms, self._cut_ms), end_ms)
            self._cut_ms = end_ms

    def _slice(self, start_ms: int, end_ms: int) -> Slice:
        arrived: list[Arrived] = []
        while self._arrived and self._arrived[0][0] < end_ms:
            arrived.append(heapq.heappop(self._arrived)[2])
        known: list[Known] = []
        while self._known and self._known[0][0] < end_ms:
            known.append(heapq.heappop(self._known)[3])
        written = [(one.waiting, one.emission) for one in known if one.emission.kind is not None]
        num_refused, self._num_refused = self._num_refused, 0
        return Slice(
            start_ms,
            end_ms,
            _candidates(arrived, self._patterns),
            examples_of(written, self._rules, self._patterns) if written else None,
            np.array([one.number for one in known], np.int64),
            np.array([one.emission.labels for one in known], np.uint64),
            num_refused,
        )


def _candidates(arrived: list[Arrived], patterns: WirePatterns) -> Candidates | None:
    """Return the candidates of the requests, an item that a request repeats once."""
    picks, ids, items, numbers = [], [], [], []
    for number, impression in arrived:
        seen: set[int] = set()
        for row, item_id in enumerate(impression.item_ids):
            if item_id not in seen:
                seen.add(item_id)
                picks.append((impression, row))
                ids.append(impression.request_id)
                items.append(item_id)
                numbers.append(number + row)
    if not picks:
        return None
    return Candidates(
        tuple(ids),
        np.array(items, np.int64),
        np.array([impression.user_id for impression, _ in picks], np.int64),
        np.array([impression.time_ms for impression, _ in picks], np.int64),
        np.array(numbers, np.int64),
        pick_features(picks, patterns),
    )


def _check_range(log: FixedLog, topic: str, options: BacktestOptions) -> None:
    """Check by the times of the records that there is something to score."""
    num_from_start = num_in_range = 0
    for partition in range(log.num_partitions(topic)):
        first, end = log.offset_at(topic, partition, max(options.start_ms, 0)), log.end_offset(topic, partition)
        stop = end if options.end_ms is None else log.offset_at(topic, partition, max(options.end_ms, 0))
        num_from_start += end - first
        num_in_range += max(stop - first, 0)
    if num_from_start == 0:
        raise ConfigError(f"start must be at most the time of the last impression in {topic!r}, got {options.start_ms} ms")
    if num_in_range == 0:
        raise ConfigError(
            f"start and end must have impressions of {topic!r} in between, got none in [{options.start_ms}, {options.end_ms}) ms"
        )
