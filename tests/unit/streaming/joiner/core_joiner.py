"""The joiner of one partition by the core, with the interface of `Reference`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from monolith_py.clock import ManualClock
from monolith_py.config import JobConfig
from monolith_py.data.schema import Schema
from monolith_py.io.codec.wire_patterns import WirePatterns
from monolith_py.io.log.topics import Topics
from monolith_streaming.joiner.core_partition import CorePartition, Judge, core_settings, parts_of_step
from monolith_streaming.joiner.emit import MAX_RECORD_BYTES, Encoding
from monolith_streaming.joiner.lookup import ImpressionLookup
from monolith_streaming.joiner.partition import PartitionState
from monolith_streaming.joiner.position import Position
from monolith_streaming.joiner.reader import Reader
from monolith_streaming.joiner.rules import Rules
from monolith_streaming.joiner.watermark import InputTopic

from .reference import no_metadata


class Core:
    """The core with the interface of `Reference`; `blocks` is its store."""

    def __init__(
        self, job: JobConfig, log: Any, clock: ManualClock, position: Position, blocks: dict[int, bytes], max_bytes: int = 1 << 40
    ) -> None:
        self._rules, self._clock, self._job = Rules.of(job), clock, job
        widths = Schema.of(job).dense_dims
        self.partition = CorePartition(core_settings(job, self._rules, widths), self._rules, position, clock.monotonic_s())
        self.blocks = blocks
        for number, value in sorted(blocks.items()):
            self.partition.core.restore_block(number, value)
        self.partition.core.restored()
        self.partition.core.set_max_bytes(max_bytes)
        self.partition.resume()
        judge = Judge(job, WirePatterns(widths))
        self._reader = Reader(job, log, judge, clock, (0, self.partition))
        self._lookup = ImpressionLookup(log, job, judge)
        self.num_looked_up = 0

    @property
    def position(self) -> Position:
        return self.partition.position

    def step(self) -> tuple[int, bool]:
        self._reader.fill(0.0)
        return self.partition.run(self._clock.monotonic_s(), self._clock.now_ms())

    def results(self, size: int, names: list[str]) -> dict[str, Any]:
        core, topics = self.partition.core, Topics.of(self._job.log)
        self.num_looked_up += len(core.lacking(True))
        assert not self._lookup.complete(PartitionState(0, self.partition, cast(Any, None)))
        step = core.written()
        encoding = Encoding(self._rules, WirePatterns({}), size)
        parts = parts_of_step(step, [(0, len(step))], encoding, no_metadata, MAX_RECORD_BYTES)
        kinds = core.emissions()[0].tolist()
        of_input = {InputTopic.IMPRESSIONS: topics.impressions, InputTopic.ACTIONS: topics.actions}
        features = self.partition.features(names)
        return {
            "records": [part.value for part in parts],
            "newest_ms": step.newest_ms(),
            "kinds": kinds,
            "increments": self.partition.increments().tolist() if kinds else [],
            "counted": {name: (c.fids.tolist(), c.lengths.tolist()) for name, c in features.sparse.items()} if kinds else {},
            "refused": core.refused_actions(),
            "too_late": [(offset, value) for _, offset, value, _ in core.too_late()],
            "letters": [(of_input[InputTopic(topic)], offset, value, reason) for topic, offset, value, reason in core.refused_records()],
            "num_waiting": core.num_waiting,
            "num_requests": core.num_requests,
            "offsets": list(self.position.offsets),
            "watermark": self.position.watermark,
            "advanced_ms": core.advanced_ms,
        }

    def commit(self) -> None:
        self.partition.note_progress()
        puts, deletes, first, stop = self.partition.core.changes()
        self.blocks.update(puts)
        for number in deletes:
            del self.blocks[number]
        assert sorted(self.blocks) == list(range(first, stop))
        self.partition.core.clear_step()

    def close_all(self) -> Iterator[None]:
        """Close every open window; yield after each step."""
        while self.partition.core.close_some():
            yield
        yield
