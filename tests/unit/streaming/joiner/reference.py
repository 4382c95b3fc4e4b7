"""The joiner of one partition by the state machine in Python: what the core is held to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from monolith_py.clock import Clock
from monolith_py.config import JobConfig
from monolith_py.data.events import DeadLetter
from monolith_py.data.schema import Schema
from monolith_py.io import Log, MemoryKv
from monolith_py.io.codec import encode_examples
from monolith_py.io.codec.wire_patterns import WirePatterns
from monolith_streaming.joiner.emit import MAX_RECORD_BYTES, Emitted, Encoding, Part, PartMetadata, examples_of, features_of
from monolith_streaming.joiner.position import Position
from monolith_streaming.joiner.request import SeenAction
from monolith_streaming.joiner.rules import Rules
from monolith_streaming.joiner.watermark import Watermark
from tests.unit.streaming.joiner.intake import Intake, SeenImpression
from tests.unit.streaming.joiner.request_joiner import RequestJoiner
from tests.unit.streaming.joiner.waiting_form import decode_waiting


class Reference:
    """Reads and joins partition 0 of a job's topics, and keeps its waiting requests in a store in memory."""

    def __init__(self, job: JobConfig, log: Log, clock: Clock, position: Position, kv: MemoryKv) -> None:
        self.rules, self.patterns = Rules.of(job), WirePatterns(Schema.of(job).dense_dims)
        self.position, self.kv, self._clock = position, kv, clock
        self._intake = Intake(job, log, self.rules, self.patterns, clock)
        settings = self.rules.max_out_of_orderness_ms, job.joiner.idle_timeout_s, job.joiner.agreeing_records
        self._watermark = Watermark(*settings, position.watermark, clock.monotonic_s())
        self.joiner = RequestJoiner(self.rules, kv, "")
        for key, value in kv.scan(""):
            self.joiner.restore(decode_waiting(key, value).request)
        self.joiner.advanced_ms = position.progress.advanced_ms
        self._refused: list[DeadLetter] = []

    def step(self) -> tuple[int, bool]:
        """Read, join and close windows; return the number of records, and whether more windows are due."""
        joiner, watermark, now_s = self.joiner, self._watermark, self._clock.monotonic_s()
        self._intake.fill(0, self.position, watermark, 0.0)
        joiner.load(self._intake.request_ids(0), watermark.advance(now_s))
        num_records, watermark_ms = 0, watermark.state.watermark_ms
        if watermark_ms is not None and joiner.is_due(watermark_ms) and joiner.advance(watermark_ms):
            return 0, True
        for event in self._intake.events(0, self.position, watermark):
            num_records += 1
            if isinstance(event, SeenImpression):
                joiner.see_impression(event, watermark_ms)
            elif isinstance(event, SeenAction):
                joiner.see_action(event)
            elif event is not None:
                self._refused.append(event)
            watermark_ms = watermark.advance(now_s)
            if watermark_ms is not None and joiner.is_due(watermark_ms) and joiner.advance(watermark_ms):
                return num_records, True
        watermark_ms = watermark.advance(now_s)
        return num_records, watermark_ms is not None and joiner.advance(watermark_ms)

    def results(self, size: int, names: list[str]) -> dict[str, Any]:
        """Return all results of the step, in plain values."""
        joiner = self.joiner
        written = [pair for pair in joiner.emitted if pair[1].kind is not None]
        emissions = [emission for _, emission in joiner.emitted]
        features = features_of(joiner.emitted, self.patterns, names) if emissions else None
        masks = [self.rules.labels.mask(place) for place in range(len(self.rules.tasks))]
        return {
            "records": [part.value for part in parts_of(written, Encoding(self.rules, self.patterns, size), no_metadata)],
            "newest_ms": max((waiting.request.time_ms for waiting, _ in written), default=0),
            "kinds": [255 if emission.kind is None else int(emission.kind) for emission in emissions],
            "increments": [[int(one.is_first), *(int(one.labels & mask > 0) for mask in masks)] for one in emissions],
            "counted": {} if features is None else {n: (c.fids.tolist(), c.lengths.tolist()) for n, c in features.sparse.items()},
            "refused": [(seen.action.request_id, seen.offset, seen.value, int(reason)) for seen, reason in joiner.refused],
            "too_late": [(seen.offset, seen.impression.value) for seen in joiner.too_late],
            "letters": [(letter.topic, letter.offset, letter.value, letter.reason) for letter in self._refused],
            "num_waiting": joiner.num_waiting,
            "num_requests": joiner.num_requests,
            "offsets": list(self.position.offsets),
            "watermark": self.position.watermark,
            "advanced_ms": joiner.advanced_ms,
        }

    def close_all(self) -> Iterator[None]:
        """Close every open window; yield after each step."""
        yield from self.joiner.close_all()

    def commit(self) -> None:
        """Store the step."""
        self.joiner.reach(self.position.watermark.watermark_ms)
        self.position.progress.advanced_ms = self.joiner.advanced_ms
        self.kv.write(*self.joiner.changes())
        self.joiner.clear_step()
        self._refused = []


def no_metadata(index: int, is_last: bool) -> dict[str, str]:
    """Return the metadata of a part of a step without any."""
    return {}


def parts_of(emitted: Emitted, encoding: Encoding, metadata: PartMetadata, max_bytes: int = MAX_RECORD_BYTES) -> list[Part]:
    """Return the examples of these emissions in order, as records of at most `encoding.size` examples and about `max_bytes`."""
    parts: list[Part] = []
    for begin in range(0, len(emitted), encoding.size):
        end = min(begin + encoding.size, len(emitted))
        batch = examples_of(emitted[begin:end], encoding.rules, encoding.patterns)
        left = [(begin, end)]
        while left:
            start, stop = left.pop()
            is_last = stop == len(emitted)
            value = encode_examples(batch.slice(start - begin, stop - begin), metadata(len(parts), is_last))
            if len(value) <= max_bytes or stop - start == 1:
                parts.append(Part(value, start, stop))
            else:
                middle = (start + stop) // 2
                left += [(middle, stop), (start, middle)]
    return parts
