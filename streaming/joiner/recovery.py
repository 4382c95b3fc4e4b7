"""State of a joiner whose store is older than the log, built again from the log.

The last step in `examples` says how far the inputs were processed. The impressions from the state's own position up to there are read
again: they make the requests. Then the examples in the log say what became of each candidate, and the actions are read again. Nothing is
emitted. Everything is read in chunks, and each is committed: memory holds no more than the requests, and a recovery that dies goes on
where it was.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass

from monolith_py.clock import Clock
from monolith_py.errors import OffsetTrimmed, RecordsDamaged, StateMismatch
from monolith_py.io import Log, Record
from monolith_py.io.log.topics import Topics
from monolith_streaming.joiner.core_partition import Judge
from monolith_streaming.joiner.partition import PartitionState
from monolith_streaming.joiner.tail import Tail, Tasks, facts_after
from monolith_streaming.joiner.watermark import InputTopic

_logger = logging.getLogger(__name__)

_CHUNK_RECORDS = 2000
_NEVER_MS = -1  # before the watermark of any step


@dataclass(frozen=True)
class Recovery:
    """Builds the state of partitions again; `commit` makes the state of one durable and clears its step."""

    log: Log
    topics: Topics
    tasks: Tasks
    judge: Judge
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
            "%r[%d]: the store ends with step %d, the log with %s: reading inputs %s again",
            self.topics.examples,
            partition.number,
            position.step,
            tail.last.step,
            ranges,
        )
        reached_ms = _NEVER_MS if target.advanced_ms is None else target.advanced_ms
        partition.joiner.core.begin_recovery(reached_ms, target.watermark.newest_ms)
        self._see_again(partition, InputTopic.IMPRESSIONS, tail)
        self._adopt(partition, tail)
        self._see_again(partition, InputTopic.ACTIONS, tail)
        position.progress = deepcopy(target)
        position.step = tail.last.step.number
        position.examples_end = self.log.end_offset(self.topics.examples, partition.number)
        partition.joiner.resume()
        self.commit(partition)

    def _adopt(self, partition: PartitionState, tail: Tail) -> None:
        """Take over what the examples say of the requests."""
        core = partition.joiner.core
        for facts in facts_after(self.log, self.topics.examples, partition.number, tail, self.tasks):
            core.adopt(facts)
            self.commit(partition)
        while core.settle_some(_CHUNK_RECORDS):
            self.commit(partition)
        self.commit(partition)

    def _see_again(self, partition: PartitionState, input_topic: InputTopic, tail: Tail) -> None:
        """Process the records of one input again.

        Those of requests that were forgotten since make no difference, nor do actions that have waited too long for their impression.
        """
        for records in self._chunks(partition, input_topic, tail):
            partition.joiner.recover(input_topic, records, self.judge, self.clock.now_ms())
            self.commit(partition)

    def _chunks(self, partition: PartitionState, input_topic: InputTopic, tail: Tail) -> Iterator[list[Record]]:
        """Yield the records of one input up to the last step."""
        assert tail.last is not None
        topic = self.topics.impressions if input_topic == InputTopic.IMPRESSIONS else self.topics.actions
        offset, stop = partition.position.offsets[input_topic], tail.last.progress.offsets[input_topic]
        while offset < stop:
            try:
                records = self.log.read(topic, partition.number, offset, min(_CHUNK_RECORDS, stop - offset))
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
