"""Reads both topics of a partition ahead, up to `max_records` of each, into the joiner's core, which merges them by event time."""

from __future__ import annotations

import logging
from functools import partial

from monolith_py.clock import Clock
from monolith_py.config import JobConfig
from monolith_py.data.events import EventTimeRule
from monolith_py.errors import OffsetTrimmed, RecordsDamaged
from monolith_py.io import Log
from monolith_py.io.log.topics import Topics
from monolith_py.observe import metrics
from monolith_streaming.joiner.core_partition import CorePartition, Judge
from monolith_streaming.joiner.watermark import InputTopic, check_wall_clock

_logger = logging.getLogger(__name__)


class Reader:
    """Reads for the joiner of one partition."""

    def __init__(self, job: JobConfig, log: Log, judge: Judge, clock: Clock, partition: tuple[int, CorePartition]) -> None:
        topics = Topics.of(job.log)
        self._topics = {InputTopic.IMPRESSIONS: topics.impressions, InputTopic.ACTIONS: topics.actions}
        self._log, self._clock, self._max_records = log, clock, job.joiner.max_records
        self._judge, self._skew_ms = judge, EventTimeRule.of(job.log).max_skew_ms
        self._number, self._joiner = partition
        self._next = list(self._joiner.position.offsets)  # by InputTopic: offset of the next read

    def fill(self, wait_s: float) -> None:
        """Read ahead; wait up to `wait_s` for each topic, and for none once there is something to join.

        A topic counts as idle only if it was empty when read after the other one: both may resume between two reads, and the watermark
        would pass the records of the one read first.
        """
        # The log has an impression before the actions on it.
        has_actions = self._read(InputTopic.ACTIONS, wait_s)
        if self._read(InputTopic.IMPRESSIONS, 0.0 if has_actions else wait_s) and not has_actions:
            self._read(InputTopic.ACTIONS, 0.0)

    def _read(self, input_topic: InputTopic, wait_s: float) -> bool:
        """Read one topic ahead and return whether it has records to process."""
        core = self._joiner.core
        num_read = core.num_read_ahead(input_topic)
        wanted = self._max_records - num_read
        if 2 * wanted >= self._max_records:
            self._push(input_topic, wanted, wait_s if not num_read else 0.0)
        core.note_read(input_topic, self._clock.monotonic_s())
        return core.num_read_ahead(input_topic) > 0

    def _push(self, input_topic: InputTopic, wanted: int, wait_s: float) -> None:
        """Read the next records into the core."""
        core, topic = self._joiner.core, self._topics[input_topic]
        offsets: list[int] = []
        values: list[bytes] = []
        try:
            records = self._log.read(topic, self._number, self._next[input_topic], wanted, timeout_s=wait_s)
            offsets, values = [record.offset for record in records], [record.value for record in records]
        except OffsetTrimmed as error:
            _logger.error("records lost, reading on at offset %d: %s", error.start, error)
            metrics.RECORDS_LOST.labels(topic=error.topic).inc(error.start - error.offset)
            self._next[input_topic] = error.start
            core.skip_to(input_topic, error.start)
        except RecordsDamaged as error:
            _logger.error("reading on at offset %d: %s", error.next_offset, error)
            metrics.RECORDS_LOST.labels(topic=error.topic).inc(error.next_offset - error.offset)
            self._next[input_topic] = error.next_offset
            core.push_damaged(input_topic, error.next_offset - 1, str(error), wanted)
            return
        wall_ms = self._clock.now_ms()
        # Here too: the clock may have stepped while the read waited, and the rule on event time would refuse what it brought.
        check_wall_clock(self._joiner.position.watermark, wall_ms, self._skew_ms)
        core.push(input_topic, offsets, values, wanted, wall_ms, partial(self._judge.judge, input_topic, wall_ms=wall_ms))
        if offsets:
            self._next[input_topic] = offsets[-1] + 1
