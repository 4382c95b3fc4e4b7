"""State of a joiner whose store is older than the log, built again from the log.

The last step in `examples` says how far the inputs were processed. Their records from the state's own position up to there are read again:
they make the requests, and the examples in the log say what became of each candidate. Nothing is emitted. Every chunk is committed with its
offsets, so a recovery that dies goes on where it was.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass

from monolith_py.clock import Clock
from monolith_py.data.events import EventTimeRule
from monolith_py.errors import OffsetTrimmed, RecordsDamaged, StateMismatch, WireError
from monolith_py.io import Log, Record
from monolith_py.io.codec import decode_action
from monolith_py.io.codec.impression_view import parse_impression
from monolith_py.io.codec.wire_patterns import WirePatterns
from monolith_py.io.log.topics import Topics
from monolith_streaming.joiner.intake import SeenImpression
from monolith_streaming.joiner.partition import PartitionState
from monolith_streaming.joiner.request import SeenAction
from monolith_streaming.joiner.rules import Rules
from monolith_streaming.joiner.tail import Tail
from monolith_streaming.joiner.watermark import InputTopic

_logger = logging.getLogger(__name__)

_CHUNK_RECORDS = 2000
_NEVER_MS = -1  # before the watermark of any step


@dataclass(frozen=True)
class Recovery:
    """Builds the state of partitions again; `commit` makes the state of one durable and clears its step."""

    log: Log
    topics: Topics
    rules: Rules
    patterns: WirePatterns
    time_rule: EventTimeRule
    clock: Clock
    commit: Callable[[PartitionState], None]

    def run(self, partition: PartitionState, tail: Tail) -> None:
        """Take the state of `partition` from its position to the last step of `tail`, which must have one.

        Raises:
            StateMismatch: inputs that are needed were trimmed.
        """
        assert tail.last is not None
        target, position = tail.last.progress, partition.position
        ranges = [(start, stop) for start, stop in zip(position.offsets, target.offsets, strict=True)]
        _logger.warning(
            "%r[%d]: the store ends with step %d, the log with %s: reading inputs %s again, %d candidates have examples",
            self.topics.examples,
            partition.number,
            position.step,
            tail.last.step,
            ranges,
            tail.num_examples,
        )
        self._adopt(partition, tail)
        self._see_impressions(partition, tail)
        self._see_actions(partition, tail)
        position.progress = deepcopy(target)
        position.step = tail.last.step.number
        position.examples_end = self.log.end_offset(self.topics.examples, partition.number)
        partition.resume(self.rules)
        self.commit(partition)

    def _adopt(self, partition: PartitionState, tail: Tail) -> None:
        """Bring the requests that the store has up to date."""
        closed_ms, joiner = _closed_ms(tail), partition.joiner
        known = dict.fromkeys([*filter(joiner.remembers, tail.facts), *joiner.due_by(closed_ms)])
        requests = list(known)
        for start in range(0, len(requests), _CHUNK_RECORDS):
            joiner.adopt(requests[start : start + _CHUNK_RECORDS], tail.facts, closed_ms)
            self.commit(partition)

    def _see_impressions(self, partition: PartitionState, tail: Tail) -> None:
        """Process the impressions again, without those of requests that were forgotten since, or refused as too late."""
        assert tail.last is not None
        forgotten_ms = _NEVER_MS if tail.last.progress.advanced_ms is None else tail.last.progress.advanced_ms
        for records in self._chunks(partition, InputTopic.IMPRESSIONS, tail):
            for record in records:
                try:
                    impression = parse_impression(record.value, self.patterns)
                except WireError:
                    continue  # a dead letter already
                is_forgotten = self.rules.forget_ms(impression.time_ms) <= forgotten_ms
                if is_forgotten or self.time_rule.fault(impression.time_ms, self.clock.now_ms()):
                    continue
                partition.joiner.recover_impression(SeenImpression(impression, record.offset), tail.facts, _closed_ms(tail))
            self._commit_chunk(partition, InputTopic.IMPRESSIONS, records)

    def _see_actions(self, partition: PartitionState, tail: Tail) -> None:
        """Process the actions again, without those that have waited too long for their impression."""
        assert tail.last is not None
        expired_ms = _NEVER_MS if tail.last.progress.advanced_ms is None else tail.last.progress.advanced_ms
        for records in self._chunks(partition, InputTopic.ACTIONS, tail):
            for record in records:
                try:
                    action = decode_action(record.value)
                except WireError:
                    continue
                if self.time_rule.fault(action.time_ms, self.clock.now_ms()) or not self.rules.matters(action):
                    continue
                if partition.joiner.remembers(action.request_id) or self.rules.expire_ms(action.time_ms) > expired_ms:
                    partition.joiner.recover_action(SeenAction(action, record.offset, record.value))
            self._commit_chunk(partition, InputTopic.ACTIONS, records)

    def _commit_chunk(self, partition: PartitionState, input_topic: InputTopic, records: list[Record]) -> None:
        partition.position.offsets[input_topic] = records[-1].offset + 1
        self.commit(partition)

    def _chunks(self, partition: PartitionState, input_topic: InputTopic, tail: Tail) -> Iterator[list[Record]]:
        """Yield the records of one input up to the last step."""
        assert tail.last is not None
        topic = self.topics.impressions if input_topic == InputTopic.IMPRESSIONS else self.topics.actions
        offset, stop = partition.position.offsets[input_topic], tail.last.progress.offsets[input_topic]
        while offset < stop:
            try:
                records = self.log.read(topic, partition.number, offset, min(_CHUNK_RECORDS, stop - offset), timeout_s=1.0)
            except RecordsDamaged as error:
                offset = error.next_offset
                continue
            except OffsetTrimmed as error:
                rule = f"must have its records from {offset} on, from which the joiner's state is built again"
                raise StateMismatch(f"{topic!r}[{partition.number}] {rule}, got {error.start}") from None
            records = [record for record in records if record.offset < stop]
            if not records:
                return
            yield records
            offset = records[-1].offset + 1


def _closed_ms(tail: Tail) -> int:
    assert tail.last is not None
    closed_ms = tail.last.progress.closed_ms
    return _NEVER_MS if closed_ms is None else closed_ms
