"""The joiner's loop: reads both topics, joins, and writes a step to the log, then its state to Kv.

A step
1. reads records of each partition and joins them,
2. advances the watermark and closes windows.
It is committed once it has examples for a whole record, or `max_records` records, or `linger_s` after its first record:
3. append dead letters (at least once: a crash before 4 appends them again),
4. append the examples of each partition, whole and with the step's number and progress,
5. write waiting requests, counters and position in one Kv transaction.
A crash before 4 leaves nothing behind; after a crash between 4 and 5 `start` brings the state up to the log, as it does for an older state.
So every example is in the log exactly once. Another joiner of the job that starts meanwhile fences this one: 4 and 5 then raise `Fenced`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from monolith_py.clock import Clock
from monolith_py.config import JobConfig
from monolith_py.data.columns import FeatureColumns
from monolith_py.data.counters import LiveCounters
from monolith_py.data.schema import Schema
from monolith_py.errors import ConfigError
from monolith_py.io import Kv, Log
from monolith_py.io.codec.wire_patterns import WirePatterns
from monolith_py.io.log.dead_letters import DeadLetters
from monolith_py.io.log.topics import Topics
from monolith_py.io.retrying import RetryingKv, RetryingLog, RetryPolicy
from monolith_py.observe import metrics
from monolith_streaming.joiner.census import Census
from monolith_streaming.joiner.commit import commit
from monolith_streaming.joiner.core_partition import Judge
from monolith_streaming.joiner.counters import counted
from monolith_streaming.joiner.emit import MAX_RECORD_BYTES, Encoding
from monolith_streaming.joiner.lookup import ImpressionLookup
from monolith_streaming.joiner.partition import PartitionState
from monolith_streaming.joiner.position import StateKeys
from monolith_streaming.joiner.reader import Reader
from monolith_streaming.joiner.recovery import Recovery
from monolith_streaming.joiner.rules import Rules
from monolith_streaming.joiner.start import Start
from monolith_streaming.joiner.step_writer import WRITER, StepWriter
from monolith_streaming.joiner.watermark import InputTopic, check_wall_clock

_logger = logging.getLogger(__name__)

# Offset in dead letters of a record that was never in the log.
NO_OFFSET = -1
# Wall-clock wait for records after a round of reads without any, over all partitions.
_IDLE_WAIT_S = 0.05
# Wall-clock seconds between two looks at the number of partitions.
_PARTITIONS_INTERVAL_S = 60.0


class JoinerLoop:
    """Joins all partitions of a job's topics. `should_stop` ends the retries while a store is away."""

    def __init__(self, job: JobConfig, log: Log, kv: Kv, clock: Clock, should_stop: Callable[[], bool] = lambda: False) -> None:
        self._job, self._clock = job, clock
        self._retry = RetryPolicy(clock, should_stop)
        self._log, self._kv = RetryingLog(log, self._retry), RetryingKv(kv, self._retry)
        self._rules = Rules.of(job)
        self._topics = Topics.of(job.log)
        self._keys = StateKeys(job.name, self._topics.examples)
        self._inputs = {InputTopic.IMPRESSIONS: self._topics.impressions, InputTopic.ACTIONS: self._topics.actions}
        self._patterns = WirePatterns(Schema.of(job).dense_dims)
        self._judge, self._census = Judge(job, self._patterns), Census(self._rules)
        self._lookup = ImpressionLookup(self._log, self._topics.impressions, self._judge, with_sampled_away=job.counters.enabled)
        self._readers: list[Reader] = []
        self._dead_letters = DeadLetters(log, self._topics.dead_letters, clock)
        self._partitions: list[PartitionState] = []
        self._num_records = 0  # of the open step
        self._step_began_s: float | None = None
        self._is_idle = False
        self._look_due_s = clock.monotonic_s() + _PARTITIONS_INTERVAL_S

    def start(self, *, force: bool = False) -> None:
        """Take over from the joiner before this one, and bring the state in Kv up to the log.

        Raises:
            ConfigError: the topics do not have the same number of partitions.
            StateMismatch: the state does not follow the log, and not `force`.
        """
        counts = self._partition_counts()
        if len(set(counts.values())) > 1:
            raise ConfigError(f"topics must have the same number of partitions, got {counts}")
        infos = {topic: self._log.describe(topic) for topic in counts}
        ids = {topic: info.id for topic, info in infos.items()}
        start = Start(self._job, self._log, self._kv, self._rules, self._clock, ids, force)
        recovery = Recovery(self._log, self._topics, self._rules.tasks, self._judge, self._clock, lambda one: self._write([one]))
        most = infos[self._topics.examples].max_record_bytes
        writers = [self._writer(number, most) for number in range(counts[self._topics.examples])]
        self._partitions = start.open(writers, recovery)
        if force:
            for partition in self._partitions:
                partition.joiner.forget_wall_clock(self._clock.now_ms())
        joiners = [(partition.number, partition.joiner) for partition in self._partitions]
        self._readers = [Reader(self._job, self._log, self._judge, self._clock, joiner) for joiner in joiners]

    def close(self) -> None:
        """Close the writers."""
        for partition in self._partitions:
            partition.writer.close()

    def _writer(self, number: int, most: int | None) -> StepWriter:
        examples = self._topics.examples
        encoding = Encoding(self._rules, self._patterns, self._job.joiner.examples_per_record)
        refused = partial(self._dead_letters.put, examples, number, NO_OFFSET)
        max_bytes = MAX_RECORD_BYTES if most is None else min(most, MAX_RECORD_BYTES)
        writer = self._log.writer(examples, number, WRITER)
        return StepWriter(self._log, examples, number, writer, encoding, refused, self._retry, max_bytes)

    def step(self) -> int:
        """Read and join records, commit if it is time, and return the number of records read.

        Waits for records, up to 50 ms, if the previous call found none.

        Raises:
            ClockStepped: the wall clock went back, so sound records would be refused.
        """
        self._look()
        num_records, has_more = 0, False
        wait_s = _IDLE_WAIT_S / (len(InputTopic) * len(self._partitions)) if self._is_idle else 0.0
        for partition, reader in zip(self._partitions, self._readers, strict=True):
            reader.fill(wait_s)
            num, more = partition.joiner.run(self._clock.monotonic_s(), self._clock.now_ms())
            partition.count_read(self._census)
            num_records += num
            has_more |= more
        self._is_idle = num_records == 0 and not has_more
        self._num_records += num_records
        if self._step_began_s is None and self._has_changes:
            self._step_began_s = self._clock.monotonic_s()
        if has_more or self._is_time_to_commit:
            self.commit()
        return num_records

    @property
    def inputs(self) -> dict[InputTopic, str]:
        """Return the names of the input topics."""
        return self._inputs

    @property
    def offsets(self) -> dict[tuple[int, InputTopic], int]:
        """Return the offset in each input partition up to which records were processed."""
        return {(partition.number, topic): partition.position.offsets[topic] for partition in self._partitions for topic in InputTopic}

    @property
    def num_requests(self) -> int:
        """Return the number of requests remembered."""
        return sum(partition.joiner.core.num_requests for partition in self._partitions)

    @property
    def num_bytes(self) -> int:
        """Return the bytes of memory of the requests remembered, about."""
        return sum(partition.joiner.core.num_bytes for partition in self._partitions)

    def ends(self) -> dict[tuple[int, InputTopic], int]:
        """Return the current end offset of each input partition."""
        return {
            (partition.number, input_topic): self._log.end_offset(topic, partition.number)
            for partition in self._partitions
            for input_topic, topic in self._inputs.items()
        }

    def has_reached(self, ends: dict[tuple[int, InputTopic], int]) -> bool:
        """Return whether all records before `ends` were read."""
        return all(self._partitions[number].position.offsets[input_topic] >= end for (number, input_topic), end in ends.items())

    def close_all(self) -> None:
        """Commit, close every window as if its time had passed, and commit again."""
        self.commit()
        for partition in self._partitions:
            while partition.joiner.core.close_some():
                self.commit()
            self.commit()

    def commit(self) -> None:
        """Make the open step durable, if there is one. The numbers are those of the module's docstring."""
        if not self._has_changes:
            return
        letters = [letter for partition in self._partitions for letter in self._lookup.complete(partition)]
        letters += [letter for partition in self._partitions for letter in partition.letters(self._topics, len(self._partitions))]
        self._retry.run(lambda: self._dead_letters.put_all(letters))  # 3
        for partition in self._partitions:
            partition.joiner.note_progress()
            partition.writer.write(partition.joiner.core.written(), partition.position)  # 4
            partition.joiner.note_step()
        self._observe()
        self._write(self._partitions)  # 5
        self._num_records, self._step_began_s = 0, None

    def _write(self, partitions: Sequence[PartitionState]) -> None:
        """Write the changes of these partitions to Kv, with their positions, and clear their steps."""
        puts: dict[str, bytes] = {}
        deletes: list[str] = []
        for partition in partitions:
            self._lookup.complete(partition)  # of a recovery; else done
            partition.joiner.core.set_max_bytes(self._job.joiner.max_memory_bytes // len(self._partitions or partitions))
            partition_puts, partition_deletes = partition.joiner.changes(self._keys, partition.number)
            puts |= partition_puts
            deletes += partition_deletes
        puts |= self._counters(partitions)
        commit(self._kv, self._keys, partitions, puts, deletes)
        for partition in partitions:
            partition.joiner.core.clear_step()

    @property
    def _has_changes(self) -> bool:
        return self._num_records > 0 or any(partition.joiner.core.has_changes for partition in self._partitions)

    @property
    def _is_time_to_commit(self) -> bool:
        if self._step_began_s is None:
            return False
        settings = self._job.joiner
        return (
            max(partition.joiner.core.num_emitted for partition in self._partitions) >= settings.examples_per_record
            or self._num_records >= settings.max_records
            or self._clock.monotonic_s() - self._step_began_s >= settings.linger_s
        )

    def _counters(self, partitions: Sequence[PartitionState]) -> dict[str, bytes]:
        settings = self._job.counters
        joiners = [partition.joiner for partition in partitions if partition.joiner.core.num_emitted]
        if not (settings.enabled and joiners):
            return {}
        features = FeatureColumns.concat([joiner.features(settings.keys) for joiner in joiners])
        increments = np.concatenate([joiner.increments() for joiner in joiners])
        return counted(self._kv, LiveCounters.of(self._job), features, increments)

    def _partition_counts(self) -> dict[str, int]:
        return {topic: self._log.num_partitions(topic) for topic in (*self._inputs.values(), self._topics.examples)}

    def _look(self) -> None:
        """Look at the wall clock, and now and then at the census and the number of partitions."""
        now_ms, skew_ms = self._clock.now_ms(), round(self._job.log.max_clock_skew_s * 1000)
        for partition in self._partitions:
            check_wall_clock(partition.position.watermark, now_ms, skew_ms)
        now_s = self._clock.monotonic_s()
        self._census.report(now_s)
        if now_s < self._look_due_s:
            return
        self._look_due_s = now_s + _PARTITIONS_INTERVAL_S
        for topic, count in self._partition_counts().items():
            if count > len(self._partitions):
                _logger.error("topic %r has %d partitions, this joiner reads %d until it restarts", topic, count, len(self._partitions))

    def _observe(self) -> None:
        for partition in self._partitions:
            partition.observe(len(self._partitions))
        metrics.JOINER_CANDIDATES_WAITING.set(sum(partition.joiner.core.num_waiting for partition in self._partitions))
        watermarks = [partition.position.watermark.watermark_ms for partition in self._partitions]
        metrics.JOINER_WATERMARK_TIMESTAMP_SECONDS.set(min((ms for ms in watermarks if ms is not None), default=0) / 1000)
