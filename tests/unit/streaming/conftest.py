"""Doubles and factories for the joiner: a log in memory, stores that fail at a given moment, jobs, impressions, actions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from monolith_py.clock import Clock, ManualClock
from monolith_py.config import JobConfig, parse_job
from monolith_py.data.columns import FeatureColumns, SparseColumn
from monolith_py.data.events import Action, Impression
from monolith_py.data.examples import ExampleBatch, ExampleKind
from monolith_py.io import Kv, Log, MemoryKv, MemoryLog, Writer
from monolith_py.io.codec import decode_dead_letter, decode_examples, encode_action, encode_impression
from monolith_py.io.log.log import event_times
from monolith_py.io.log.topics import Topics, create_topics
from monolith_streaming.joiner.loop import JoinerLoop

NOW_MS = 1_700_000_000_000
# request id, item, kind, labels, sample rate, time, fids of each feature
Row = tuple[str, int, int, tuple[int, ...], float, int, tuple[tuple[str, tuple[int, ...]], ...]]


class Killed(BaseException):
    """The process has died. No handler may catch it."""


class Fuse:
    """Kills, or fails with `error`, at the `at`-th of the moments that are passed (0 is the first)."""

    def __init__(self, at: int, error: Callable[[], BaseException] = Killed) -> None:
        self.at, self.passed, self._error = at, 0, error

    def burn(self) -> None:
        self.passed += 1
        if self.passed == self.at + 1:
            raise self._error()


class FailingLog(MemoryLog):
    """Shares its records with `log`; an append may fail before anything is written, in the middle, or after all is.

    An append of a writer may fail before or after, never in the middle.
    """

    def __init__(self, log: MemoryLog, fuse: Fuse) -> None:
        super().__init__()
        self.records, self.epochs, self._fuse = log.records, log.epochs, fuse

    def append(self, topic: str, values: Sequence[bytes], *, time_ms: int | Sequence[int], partition: int = 0) -> int:
        self._fuse.burn()
        times_ms = event_times(time_ms, len(values))
        super().append(topic, values[:1], time_ms=times_ms[:1], partition=partition)
        if len(values) > 1:
            self._fuse.burn()
        end = super().append(topic, values[1:], time_ms=times_ms[1:], partition=partition)
        self._fuse.burn()
        return end

    def writer(self, topic: str, partition: int, name: str) -> FailingWriter:
        whole = MemoryLog()
        whole.records, whole.epochs = self.records, self.epochs
        return FailingWriter(whole.writer(topic, partition, name), self._fuse)


class FailingWriter:
    """The writer `writer`; an append may fail before anything is written, or after all is."""

    def __init__(self, writer: Writer, fuse: Fuse) -> None:
        self._writer, self._fuse = writer, fuse

    def append(self, values: Sequence[bytes], *, time_ms: int | Sequence[int]) -> int:
        self._fuse.burn()
        end = self._writer.append(values, time_ms=time_ms)
        self._fuse.burn()
        return end

    def settle(self) -> None:
        self._writer.settle()

    def close(self) -> None:
        self._writer.close()


class FailingKv:
    """The store `kv`; a write may fail before or after it is done."""

    def __init__(self, kv: Kv, fuse: Fuse) -> None:
        self._kv, self._fuse = kv, fuse

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        return self._kv.get_many(keys)

    def write(self, puts: Mapping[str, bytes], deletes: Sequence[str] = (), expect: Mapping[str, bytes] | None = None) -> None:
        self._fuse.burn()
        self._kv.write(puts, deletes, expect)
        self._fuse.burn()

    def scan(self, prefix: str) -> Iterator[tuple[str, bytes]]:
        return self._kv.scan(prefix)

    def close(self) -> None:
        self._kv.close()


class World:
    """Everything that a test of the joiner needs."""

    now_ms = NOW_MS
    MemoryLog, Fuse, FailingLog, FailingKv, Killed = MemoryLog, Fuse, FailingLog, FailingKv, Killed

    @staticmethod
    def job(log_url: str = "sqlite:///unused", kv_url: str = "sqlite:///unused", **settings: Any) -> JobConfig:
        """A job with tasks click and like, window 100 s, late 1000 s, out of order 10 s, emit candidate; `settings` are the joiner's."""
        counters = settings.pop("counters", {})
        partitions = settings.pop("partitions", 1)
        joiner = {"window_s": 100, "allowed_lateness_s": 1000, "max_out_of_orderness_s": 10, "linger_s": 0, "emit": "candidate"}
        joiner |= {"agreeing_records": 1, **settings}  # one record moves event time
        return parse_job(
            {
                "name": "test",
                "log": {"url": log_url, "partitions": partitions},
                "kv": {"url": kv_url},
                "features": [{"name": "user", "source": "user_id"}, {"name": "tags", "source": "item"}],
                "dense_features": [{"name": "age", "source": "item", "dim": 2}],
                "tasks": [{"name": "is_click", "action": "click"}, {"name": "is_like", "action": "like"}],
                "counters": counters,
                "joiner": joiner,
                "trainer": {"checkpoint_dir": "unused"},
            }
        )

    @staticmethod
    def impression(request_id: str, at_s: float = 0, items: Sequence[int] = (1,), **fields: Any) -> Impression:
        """An impression `at_s` seconds after NOW; its features tell user and items apart, tags has item % 3 fids."""
        ids = np.array(items, np.int64)
        user = sum(request_id.encode())
        lengths = (ids % 3).astype(np.int32)
        values: dict[str, Any] = {
            "request_id": request_id,
            "time_ms": NOW_MS + round(at_s * 1000),
            "user_id": user,
            "item_ids": ids,
            "shared": FeatureColumns(1, {"user": SparseColumn(np.array([user]), np.ones(1, np.int32))}),
            "candidates": FeatureColumns(
                len(ids),
                {"tags": SparseColumn(np.repeat(ids * 10, lengths), lengths)},
                {"age": np.stack([ids, ids + 0.5], axis=1).astype(np.float32)},
            ),
            "scores": np.zeros((len(ids), 0), np.float32),
        }
        return Impression(**(values | fields))

    @staticmethod
    def action(request_id: str, kind: str, at_s: float, item: int = 1, value: float = 1.0) -> Action:
        """An action `at_s` seconds after NOW."""
        return Action(request_id, item, kind, NOW_MS + round(at_s * 1000), value)

    @staticmethod
    def create_topics(log: Log, job: JobConfig) -> None:
        create_topics(log, job.log)

    @staticmethod
    def log(job: JobConfig) -> MemoryLog:
        """A log in memory with the job's topics."""
        log = MemoryLog()
        create_topics(log, job.log)
        return log

    @staticmethod
    def append(job: JobConfig, log: Log, *events: Impression | Action, partition: int = 0) -> None:
        """Append events to their topics in this order."""
        topics = Topics.of(job.log)
        for event in events:
            if isinstance(event, Impression):
                log.append(topics.impressions, [encode_impression(event)], time_ms=event.time_ms, partition=partition)
            else:
                log.append(topics.actions, [encode_action(event)], time_ms=event.time_ms, partition=partition)

    @staticmethod
    def joiner(job: JobConfig, log: Log, kv: Kv | None = None, clock: Clock | None = None) -> JoinerLoop:
        """A started joiner; its wall clock stands ten days after NOW unless it is given."""
        loop = JoinerLoop(job, log, kv or MemoryKv(), clock or ManualClock(NOW_MS + 10 * 86_400_000))
        loop.start()
        return loop

    @classmethod
    def join(cls, job: JobConfig, log: Log, kv: Kv | None = None) -> None:
        """Join everything in the log and close all windows."""
        loop = cls.joiner(job, log, kv)
        ends = loop.ends()
        while not loop.has_reached(ends):
            loop.step()
        loop.close_all()

    @classmethod
    def pass_time(cls, job: JobConfig, log: Log, at_s: float) -> None:
        """Append records by which event time goes past `at_s` in every partition, so actions without an impression wait no more."""
        for partition in range(job.log.partitions):
            later = cls.impression(f"later{partition}", at_s + 11), cls.action(f"later{partition}", "click", at_s + 11)
            cls.append(job, log, *later, partition=partition)

    @staticmethod
    def batches(job: JobConfig, log: Log, topic: str | None = None) -> list[ExampleBatch]:
        """The records of the examples topic, or of another one."""
        topic = topic or Topics.of(job.log).examples
        return [
            decode_examples(record.value)
            for partition in range(log.num_partitions(topic))
            for record in log.read(topic, partition, log.start_offset(topic, partition), 1_000_000)
        ]

    @classmethod
    def examples(cls, job: JobConfig, log: Log, topic: str | None = None) -> Counter[Row]:
        """The multiset of examples."""
        rows: Counter[Row] = Counter()
        for batch in cls.batches(job, log, topic):
            for row in range(len(batch)):
                one = batch.slice(row, row + 1)
                rows[
                    one.request_ids[0],
                    int(one.item_ids[0]),
                    int(one.kinds[0]),
                    tuple(int(values[0]) for values in one.labels.values()),
                    float(one.sample_rates[0]),
                    int(one.times_ms[0]),
                    (
                        *((name, tuple(column.fids.tolist())) for name, column in sorted(one.features.sparse.items())),
                        *((name, tuple(values[0].tolist())) for name, values in sorted(one.features.dense.items())),
                    ),
                ] += 1
        return rows

    @classmethod
    def labels(cls, job: JobConfig, log: Log) -> list[tuple[str, int, str, tuple[int, ...]]]:
        """(request id, item, kind, labels) in the order of the log."""
        return [
            (
                batch.request_ids[row],
                int(batch.item_ids[row]),
                ExampleKind(batch.kinds[row]).name,
                tuple(int(v[row]) for v in batch.labels.values()),
            )
            for batch in cls.batches(job, log)
            for row in range(len(batch))
        ]

    @staticmethod
    def dead_letters(job: JobConfig, log: Log) -> list[tuple[str, int, str]]:
        """(topic, offset, reason) of each."""
        letters = [decode_dead_letter(record.value) for record in log.read(Topics.of(job.log).dead_letters, 0, 0, 1000)]
        return [(letter.topic, letter.offset, letter.reason) for letter in letters]


@pytest.fixture(scope="session")
def world() -> type[World]:
    return World
