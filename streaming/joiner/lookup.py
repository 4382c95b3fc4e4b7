"""Impressions read again from the log, by offset, for examples whose request keeps them in the log alone.

A request does so after a restart, and where `joiner.max_memory_bytes` is reached. Its examples are emitted like others; their features are
read before the step is written.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from functools import partial

from monolith_py.config import JobConfig
from monolith_py.data.events import DeadLetter
from monolith_py.errors import OffsetTrimmed, RecordsDamaged
from monolith_py.io import Log, Record
from monolith_py.io.log.topics import Topics
from monolith_py.observe import metrics
from monolith_streaming.joiner.core_partition import Judge
from monolith_streaming.joiner.partition import PartitionState
from monolith_streaming.joiner.rules import FOREVER_MS
from monolith_streaming.joiner.watermark import InputTopic

_logger = logging.getLogger(__name__)

# Two offsets that are closer are read with what lies between them: a record passed over costs less than another read.
_MAX_GAP = 64
_READ_RECORDS = 2000
_LOST = "impression must be in the log until its request is forgotten, got none: its examples are lost"


class ImpressionLookup:
    """Completes the steps of partitions. Live counters need the features of negatives that were sampled away, too."""

    def __init__(self, log: Log, job: JobConfig, judge: Judge) -> None:
        self._log, self._topic, self._with_sampled_away = log, Topics.of(job.log).impressions, job.counters.enabled
        # The time was checked when the impression arrived.
        self._judge = partial(judge.judge, InputTopic.IMPRESSIONS, wall_ms=FOREVER_MS)

    def complete(self, partition: PartitionState) -> list[DeadLetter]:
        """Give each example of the open step its impression; return a dead letter for each impression that the log no longer has.

        Examples without their impression are dropped.

        Raises:
            LogError: the log cannot be read.
        """
        core = partition.joiner.core
        wanted = core.lacking(self._with_sampled_away)
        if not wanted:
            return []
        offsets: list[int] = []
        values: list[bytes] = []
        for record in records_at(self._log, self._topic, partition.number, wanted):
            offsets.append(record.offset)
            values.append(record.value)
        lost = sorted(set(core.supply(offsets, values, self._judge)))
        if lost:
            _logger.error("%r[%d]: %d impressions are gone whose examples are due: %s", self._topic, partition.number, len(lost), lost[:10])
            metrics.RECORDS_LOST.labels(topic=self._topic).inc(len(lost))
        return [DeadLetter(self._topic, partition.number, offset, b"", _LOST) for offset in lost]


def records_at(log: Log, topic: str, partition: int, offsets: Sequence[int]) -> Iterator[Record]:
    """Yield the records at `offsets`, which grow; pass over those that are damaged or gone."""
    index = 0
    while index < len(offsets):
        start, stop = offsets[index], index
        while stop + 1 < len(offsets) and offsets[stop + 1] - offsets[stop] <= _MAX_GAP and offsets[stop + 1] - start < _READ_RECORDS:
            stop += 1
        after = start  # the offsets before it are done
        try:
            records = log.read(topic, partition, start, offsets[stop] - start + 1, timeout_s=1.0)
            after = records[-1].offset + 1 if records else offsets[stop] + 1
        except OffsetTrimmed as error:
            records, after = [], error.start
        except RecordsDamaged as error:
            records, after = [], error.next_offset
        wanted = set(offsets[index : stop + 1])
        yield from (record for record in records if record.offset in wanted)
        while index < len(offsets) and offsets[index] < after:
            index += 1
