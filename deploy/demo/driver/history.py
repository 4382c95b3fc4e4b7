"""Writers of history: stored features into the store, impressions and actions into the log."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from heapq import merge
from operator import itemgetter

import numpy as np
import numpy.typing as npt

from monolith_demo.dataset.kuairand import Stream
from monolith_demo.dataset.stream import ImpressionSource, RequestStream
from monolith_py.config import JobConfig
from monolith_py.data.columns import FeatureColumns
from monolith_py.data.counters import LiveCounters
from monolith_py.data.events import Impression
from monolith_py.io import Kv, Log
from monolith_py.io.codec import encode_action, encode_features, encode_impression
from monolith_py.io.log.topics import Topics, partition_of

_FEATURES_AT_ONCE = 2000
_RECORDS_AT_ONCE = 1000

Timed = tuple[int, str, bytes]  # event time in milliseconds, request id, encoded record


def write_features(kv: Kv, users: Mapping[int, FeatureColumns], items: Mapping[int, FeatureColumns]) -> None:
    """Write the stored features of users and items under the keys that replicas read."""
    rows = [(f"user:{user}", columns) for user, columns in users.items()]
    rows += [(f"item:{item}", columns) for item, columns in items.items()]
    for start in range(0, len(rows), _FEATURES_AT_ONCE):
        kv.write({key: encode_features(columns) for key, columns in rows[start : start + _FEATURES_AT_ONCE]})


def write_history(
    log: Log, job: JobConfig, stream: RequestStream, count: int, requests: ImpressionSource, note: Callable[[int], None]
) -> int:
    """Append the first `count` impressions and their actions to the log in time order, and return the number of records.

    Actions that come after the next impression are left to the live phase. `note` gets the number of records of each chunk.
    """
    topics = Topics.of(job.log)
    impressions = requests.impressions(range(count))
    if job.counters.enabled:
        assert isinstance(stream, Stream)  # the only demo with live counters
        impressions = ServedCounters(job, stream, count).serve(impressions)
    shown = ((impression.time_ms, 0, impression.request_id, encode_impression(impression)) for impression in impressions)
    ended = history_actions(stream, count).tolist()
    done = ((time_ms, 1, request_id, value) for index in ended for time_ms, request_id, value in action_records(stream, index))
    total = 0
    for chunk in _chunks(merge(shown, done, key=itemgetter(0, 1))):
        for which, topic in enumerate((topics.impressions, topics.actions)):
            records = [(time_ms, request_id, value) for time_ms, of, request_id, value in chunk if of == which]
            append_records(log, topic, job.log.partitions, records)
        note(len(chunk))
        total += len(chunk)
    return total


def action_records(stream: RequestStream, index: int) -> Iterator[Timed]:
    """Yield the records of the actions of one moment."""
    for action in stream.actions(index):
        yield action.time_ms, action.request_id, encode_action(action)


def append_records(log: Log, topic: str, num_partitions: int, records: Sequence[Timed]) -> None:
    """Append `records`, which are in time order, each to the partition of its request."""
    by_partition: dict[int, tuple[list[bytes], list[int]]] = {}
    for time_ms, request_id, value in records:
        values, times_ms = by_partition.setdefault(partition_of(request_id, num_partitions), ([], []))
        values.append(value)
        times_ms.append(time_ms)
    for partition, (values, times_ms) in by_partition.items():
        log.append(topic, values, time_ms=times_ms, partition=partition)


def history_actions(stream: RequestStream, count: int) -> npt.NDArray[np.int64]:
    """Return the moments of actions on the first `count` requests before request `count`, sorted by time: int64 (m,)."""
    moments = np.flatnonzero(stream.action_requests < count)
    times_ms = stream.action_times_ms[moments]
    order = np.argsort(times_ms, kind="stable")
    kept = order if count == len(stream) else order[times_ms[order] < stream.times_ms[count]]
    return moments[kept]


class ServedCounters:
    """Live counters of the first `count` impressions, as a replica would have served them: over the examples joined before each."""

    def __init__(self, job: JobConfig, stream: Stream, count: int) -> None:
        self._config, self._counters = job.counters, LiveCounters.of(job)
        self._times_ms = stream.times_ms
        self._known_ms = stream.times_ms + np.where(stream.plays_ms > 0, stream.plays_ms, round(job.joiner.window_s * 1000))
        self._order = np.argsort(self._known_ms[:count], kind="stable")
        labels = {"click": stream.clicks, "long_view": stream.long_views}
        # Increment of each impression: (n, 1 + tasks), impressions and positive labels.
        self._added = np.stack(
            [np.ones(len(stream), np.int64), *(labels[action].astype(np.int64) for task in job.tasks for action in task.actions)], axis=1
        )
        self._counts: dict[tuple[str, int], npt.NDArray[np.int64]] = {}

    def serve(self, impressions: Iterable[Impression]) -> Iterator[Impression]:
        """Yield the first `count` impressions with their dense features `counter_<key>`."""
        fids: list[list[tuple[str, int]]] = []
        done = 0
        for index, impression in enumerate(impressions):
            while done < len(self._order) and self._known_ms[self._order[done]] < self._times_ms[index]:
                known = self._order[done]
                for key in fids[known]:
                    self._counts[key] = self._counts.get(key, 0) + self._added[known]
                done += 1
            shared, candidates = self._fids(impression.shared), self._fids(impression.candidates)
            fids.append(shared + candidates)
            yield replace(
                impression,
                shared=replace(impression.shared, dense=self._values(shared)),
                candidates=replace(impression.candidates, dense=self._values(candidates)),
            )

    def _fids(self, columns: FeatureColumns) -> list[tuple[str, int]]:
        return [(key, int(columns.sparse[key].fids[0])) for key in self._config.keys if key in columns.sparse]

    def _values(self, fids: list[tuple[str, int]]) -> dict[str, npt.NDArray[np.float32]]:
        return {f"counter_{key}": self._value(self._counts.get((key, fid))) for key, fid in fids}

    def _value(self, counts: npt.NDArray[np.int64] | None) -> npt.NDArray[np.float32]:
        by_task = None if counts is None else np.stack([np.full(len(counts) - 1, counts[0]), counts[1:]], axis=1)  # (tasks, 2)
        return self._counters.values(None if by_task is None else self._counters.encode(by_task))[None]  # (1, 1 + tasks)


def _chunks(records: Iterable[tuple[int, int, str, bytes]]) -> Iterator[list[tuple[int, int, str, bytes]]]:
    chunk: list[tuple[int, int, str, bytes]] = []
    for record in records:
        if len(chunk) == _RECORDS_AT_ONCE:
            yield chunk
            chunk = []
        chunk.append(record)
    if chunk:
        yield chunk
