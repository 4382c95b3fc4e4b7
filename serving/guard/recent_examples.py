"""Recent examples with the scores that a version is measured against.

Letters: n examples, T tasks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from monolith_py.clock import Clock
from monolith_py.config import JobConfig
from monolith_py.data.class_labels import strongest
from monolith_py.data.columns import FloatArray
from monolith_py.data.examples import ExampleBatch, ExampleKind
from monolith_py.data.schema import Schema
from monolith_py.errors import OffsetTrimmed, RecordsDamaged, WireError
from monolith_py.io import Log
from monolith_py.io.codec import decode_examples
from monolith_py.io.log.topics import Topics
from monolith_py.model.batch import Batch, make_batch

# Records that one look reads of a partition; older ones are passed over, so a look costs the same at any traffic.
_RECORDS_AT_ONCE = 4
# Records of a partition that are read at the start.
_RECORDS_AT_START = 200
Score = Callable[[Batch], FloatArray]


@dataclass(frozen=True)
class _Part:
    examples: ExampleBatch
    reference: FloatArray  # (n, T)

    def __len__(self) -> int:
        return len(self.examples)

    def last(self, num: int) -> _Part:
        """Return the last `num` examples."""
        start = len(self) - num
        return _Part(self.examples.slice(start, len(self)), self.reference[start:])


@dataclass(frozen=True)
class ScoredExamples:
    """Examples with the scores of the reference."""

    batch: Batch
    labels: FloatArray  # (n, T)
    weights: FloatArray  # (n,) 1 / the rate at which they were sampled
    reference: FloatArray  # (n, T)


class RecentExamples:
    """Ring of `guard.examples` labelled examples. The oldest give way at a pace that makes them cover `guard.window_s`. For one thread.

    The reference of an example is the score that its user got from the serving arm: of the last good version. An example without one is
    scored as it comes by the version that is good then, or left out.
    """

    def __init__(self, job: JobConfig, log: Log, clock: Clock, until: Mapping[int, int] | None = None, *, after: Mapping[int, int]) -> None:
        """Start before the present ends of the topic, or before the offsets `until`, but not before the offsets `after`."""
        self._schema, self._arm, self._most = Schema.of(job), job.serving.arm, job.guard.examples
        self._log, self._topic, self._clock = log, Topics.of(job.log).examples, clock
        self._per_s = self._most / job.guard.window_s
        self._parts: deque[_Part] = deque()
        self._num, self._allowed = 0, 0.0
        self._allowed_s = clock.monotonic_s()
        self._generator = np.random.default_rng(0)
        self._scored: ScoredExamples | None = None
        self.offsets: dict[int, int] = {}  # partition -> offset of the next record
        for partition in range(log.num_partitions(self._topic)):
            newest = log.end_offset(self._topic, partition)
            first = max(log.start_offset(self._topic, partition), (until or {}).get(partition, newest) - _RECORDS_AT_START)
            self.offsets[partition] = max(first, min(after.get(partition, 0), newest))
        self._until = until
        self.uses_served = True  # False: every example is scored as it comes

    def fill(self, score: Score | None) -> None:
        """Read what has come, at most four records of a partition; at the first call 200 of them.

        `score` scores the examples that nobody got a score for; None leaves them out.

        Raises:
            LogError: the log cannot be reached.
        """
        is_first, now_s = not self._parts, self._clock.monotonic_s()
        self._allowed = min(self._allowed + self._per_s * (now_s - self._allowed_s), float(self._most))
        self._allowed_s = now_s
        for partition in range(self._log.num_partitions(self._topic)):
            for examples in self._read(partition, _RECORDS_AT_START if is_first else _RECORDS_AT_ONCE):
                self._add(examples, score)
        self._until = None

    def scored(self) -> ScoredExamples | None:
        """Return all examples, None without one."""
        if self._scored is None and self._parts:
            examples = ExampleBatch.concat([part.examples for part in self._parts])
            self._scored = ScoredExamples(
                make_batch(examples.features, self._schema),
                strongest(np.stack([examples.labels[task] for task in self._schema.tasks], axis=1), self._schema.settings),
                (1.0 / examples.sample_rates).astype(np.float32),
                np.concatenate([part.reference for part in self._parts]),
            )
        return self._scored

    def _read(self, partition: int, most: int) -> list[ExampleBatch]:
        end = (self._until or {}).get(partition, self._log.end_offset(self._topic, partition))
        offset = max(self.offsets.get(partition, 0), end - most)
        self.offsets[partition] = offset
        if offset >= end:
            return []
        try:
            records = self._log.read(self._topic, partition, offset, end - offset)
        except (OffsetTrimmed, RecordsDamaged):
            self.offsets[partition] = end
            return []
        found = []
        for record in records:
            self.offsets[partition] = record.offset + 1
            try:
                examples = decode_examples(record.value)
            except WireError:
                continue  # the trainer puts it aside
            if set(self._schema.tasks) <= set(examples.labels):
                found.append(examples)
        return found

    def _add(self, examples: ExampleBatch, score: Score | None) -> None:
        """Add as many examples in a row as the pace allows, from a random place on; retractions are left out."""
        free = self._most - self._num
        num = min(len(examples), max(free, int(self._allowed)), self._most)
        if not num:
            return
        first = int(self._generator.integers(len(examples) - num + 1))
        self._allowed = max(self._allowed - max(num - free, 0), 0.0)
        for start, stop in _runs(first + np.flatnonzero(examples.kinds[first : first + num] == ExampleKind.LABELLED)):
            part = examples.slice(start, stop)
            try:
                batch = make_batch(part.features, self._schema)
            except WireError:
                return  # they do not fit the job: the trainer puts them aside
            reference = self._served(part)
            if score is not None and not np.isfinite(reference).all():
                reference = np.where(np.isfinite(reference), reference, score(batch))
            for known, end in _runs(np.flatnonzero(np.isfinite(reference).all(axis=1))):
                self._parts.append(_Part(part.slice(known, end), reference[known:end]))
                self._num += end - known
        self._scored = None
        while self._num > self._most:
            oldest = self._parts.popleft()
            self._num -= len(oldest)
            if self._num < self._most:
                kept = oldest.last(min(self._most - self._num, len(oldest)))
                self._parts.appendleft(kept)
                self._num += len(kept)

    def _served(self, examples: ExampleBatch) -> FloatArray:
        """Return the served scores (n, T), NaN where another arm or none has served."""
        served, tasks = examples.served, self._schema.tasks
        if served is None or not self.uses_served:
            return np.full((len(examples), len(tasks)), np.nan, np.float32)
        absent = np.full(len(examples), np.nan, np.float32)
        scores = np.stack([served.scores.get(task, absent) for task in tasks], axis=1)
        of_arm = np.array([model.arm == self._arm for model in served.models])[served.model_codes]
        return np.where(of_arm[:, None], scores, np.nan).astype(np.float32)


def _runs(rows: np.ndarray) -> list[tuple[int, int]]:
    """Return [start, stop) of each run of consecutive rows."""
    if not len(rows):
        return []
    cuts = np.flatnonzero(np.diff(rows) > 1) + 1
    return [(int(run[0]), int(run[-1]) + 1) for run in np.split(rows, cuts)]
