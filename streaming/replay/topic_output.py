"""Output of a replay into a topic.

A worker may run twice, also at the same time. Each record has the replay's name and its shard in its metadata: only missing ones are
appended, by one worker at a time.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from monolith_py.clock import SystemClock
from monolith_py.config import JobConfig
from monolith_py.data.columns import FeatureColumns
from monolith_py.data.examples import ExampleBatch
from monolith_py.data.schema import Schema
from monolith_py.errors import LogError, RecordRefused
from monolith_py.io import Log, Record, Writer, open_log
from monolith_py.io.codec import encode_examples, examples_metadata
from monolith_py.io.retrying import RetryingLog, RetryPolicy
from monolith_streaming.joiner.emit import MAX_RECORD_BYTES
from monolith_streaming.replay.output import END_KEY, RULES_KEY, SHARD_KEY, Foreign, PartitionOutput, Step, last_record, replay_name
from monolith_streaming.replay.source import Count, Shard

_logger = logging.getLogger(__name__)

# Name of the writer of a partition of the output.
WRITER = "replay"
_READ_RECORDS = 256


@dataclass(frozen=True)
class TopicOutput:
    """Topic `topic` of the job's log, with the partitions of the impressions."""

    job: JobConfig
    topic: str
    name: str  # of the replay
    rules: str  # text that two replays share if they have the same records

    def open(self, partition: int, count: Count) -> PartitionOutput:
        """Return the output of a partition, and fence another worker on it.

        Raises:
            Foreign: it has records of this replay by other rules.
            LogError: the log is away.
        """
        return _TopicPartition(self, partition, count)

    def end(self) -> None:
        """Append a record without examples to partition 0, unless it is the last one there: all partitions are written."""
        none, schema = np.zeros(0, np.int64), Schema.of(self.job)
        labels = {task: none.astype(np.float32) for task in schema.tasks}
        empty = ExampleBatch((), none, none, none.astype(np.uint8), none.astype(np.float32), labels, FeatureColumns(0))
        value = encode_examples(empty, {END_KEY: self.name})
        with closing(open_log(self.job.log)) as log, closing(log.writer(self.topic, 0, WRITER)) as writer:
            last = last_record(log, self.topic, 0)
            if last is None or last.value != value:
                writer.append([value], time_ms=last.time_ms if last else 1)


class _TopicPartition:
    def __init__(self, output: TopicOutput, partition: int, count: Count) -> None:
        self._output, self._partition, self._count = output, partition, count
        self._retry = RetryPolicy(SystemClock())
        self._log: Log = RetryingLog(open_log(output.job.log), self._retry)
        self._writer: Writer = self._log.writer(output.topic, partition, WRITER)
        most = self._log.describe(output.topic).max_record_bytes
        self.max_record_bytes = MAX_RECORD_BYTES if most is None else min(most, MAX_RECORD_BYTES)
        self._end = self._log.end_offset(output.topic, partition)
        self.first_shard, first_offset = self._last_shard()
        self._present: Iterator[bytes] = (record.value for record in self._records_from(first_offset))

    def write(self, shard: int, step: Step) -> None:
        """Append the records that are not next in the partition."""
        values = list(step.values)
        while values:
            earlier = next(self._present, None)
            if earlier is None:
                break
            if earlier != values.pop(0):
                raise Foreign
            self._count("records_present", 1)
        if values:
            self._append(values, step.newest_ms)
            self._count("records_written", len(values))

    def end_shard(self, shard: Shard) -> None:
        """Do nothing: records are durable once they are appended."""

    def end(self) -> None:
        """Check that the partition has no further record of this replay."""
        if next(self._present, None) is not None:
            raise Foreign

    def close(self) -> None:
        """Close writer and log."""
        self._writer.close()
        self._log.close()

    def _append(self, values: Sequence[bytes], time_ms: int) -> None:
        try:
            self._end = self._writer.append(values, time_ms=time_ms)
        except RecordRefused:
            raise
        except LogError as error:
            _logger.warning("append failed, looking for its records: %s", error)
            self._end = self._retry.run(lambda: self._append_if_missing(values, time_ms))

    def _append_if_missing(self, values: Sequence[bytes], time_ms: int) -> int:
        self._writer.settle()
        topic, partition, offset = self._output.topic, self._partition, self._end
        while records := self._log.read(topic, partition, offset, _READ_RECORDS):
            if any(record.value == values[-1] for record in records):
                return self._log.end_offset(topic, partition)
            offset = records[-1].offset + 1
        return self._writer.append(values, time_ms=time_ms)

    def _last_shard(self) -> tuple[int, int]:
        """Return the last shard of this replay that has a record, and the offset of its first; count the records of those before."""
        output = self._output
        shard, first, num_before = 0, self._log.start_offset(output.topic, self._partition), 0
        for num, record in enumerate(self._records_from(first)):
            metadata = examples_metadata(record.value)
            number = metadata.get(SHARD_KEY, "")
            if metadata.get(RULES_KEY) != output.rules or not number.isdecimal():
                raise Foreign
            if int(number) > shard:
                shard, first, num_before = int(number), record.offset, num
        self._count("records_present", num_before)
        return shard, first

    def _records_from(self, offset: int) -> Iterator[Record]:
        """Yield the records that a replay of this name has written, up to the end at the start of this worker."""
        end, topic = self._end, self._output.topic
        while offset < end:
            records = self._log.read(topic, self._partition, offset, _READ_RECORDS)
            if not records:
                return
            for record in records:
                if record.offset < end and replay_name(record.value) == self._output.name:
                    yield record
            offset = records[-1].offset + 1
