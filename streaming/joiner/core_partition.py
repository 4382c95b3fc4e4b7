"""One partition of the joiner in the core: its settings from the job, the records that the core leaves to Python, its results.

The core joins by the rules of rules.py and watermark.py; tests/unit/streaming/joiner/test_core_joiner.py holds it to them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple
from functools import partial

import numpy as np

from monolith_py import _core
from monolith_py.config import JobConfig
from monolith_py.data.columns import FeatureColumns, Int64Array, SparseColumn
from monolith_py.data.events import EventTimeRule
from monolith_py.errors import WireError
from monolith_py.io import Record
from monolith_py.io.codec.canonical import canonical_action, canonical_impression
from monolith_py.io.codec.joined import encode_joined
from monolith_py.io.codec.wire_patterns import WirePatterns
from monolith_streaming.joiner.emit import Encoding, Part, PartMetadata
from monolith_streaming.joiner.position import OpenPlace, Position, StateKeys
from monolith_streaming.joiner.rules import Rules
from monolith_streaming.joiner.watermark import InputTopic, WatermarkState

# Most records behind one that show in a backlog that it is ahead of its neighbours.
_LOOK_AHEAD = 8
NAMES = {InputTopic.IMPRESSIONS: "impression", InputTopic.ACTIONS: "action"}


def num_ahead(max_records: int) -> int:
    """Return the number of records behind one that show in a backlog that it is ahead of them."""
    return min(_LOOK_AHEAD, max_records // (2 * _LOOK_AHEAD))


class Judge:
    """Decides about records that the core does not read. For one thread."""

    def __init__(self, job: JobConfig, patterns: WirePatterns) -> None:
        self._patterns, self._time_rule = patterns, EventTimeRule.of(job.log)

    def judge(self, input_topic: InputTopic, value: bytes, wall_ms: int) -> bytes | str:
        """Return the record in canonical form, or the reason for refusing it."""
        try:
            if input_topic == InputTopic.IMPRESSIONS:
                canonical, time_ms = canonical_impression(value, self._patterns)
            else:
                canonical, time_ms = canonical_action(value)
        except WireError as error:
            return str(error)
        fault = self._time_rule.fault(time_ms, wall_ms)
        return canonical if fault is None else f"{NAMES[input_topic]}.{fault}"


def kinds_of(rules: Rules) -> list[str]:
    """Return the kinds of action that matter, in the order of the core."""
    return list(dict.fromkeys([*rules.bits, *sorted(rules.terminal), *sorted(rules.terminal_of_request)]))


def core_settings(job: JobConfig, rules: Rules, widths: Mapping[str, int]) -> _core.JoinerSettings:
    """Return the settings of the core for `job` with `rules`; `widths`: dim of each dense feature."""
    kinds = [(name, rules.bits.get(name, 0), name in rules.terminal, name in rules.terminal_of_request) for name in kinds_of(rules)]
    time_rule = EventTimeRule.of(job.log)
    settings = _core.JoinerSettings(rules.tasks, kinds, dict(widths))
    settings.set_label_widths(rules.labels.widths)
    settings.emits_requests, settings.waits_for_window, settings.retracts = rules.emits_requests, rules.waits_for_window, rules.retracts
    settings.window_ms, settings.allowed_lateness_ms = rules.window_ms, rules.allowed_lateness_ms
    settings.max_out_of_orderness_ms = rules.max_out_of_orderness_ms
    settings.set_negative_rates(rules.negative_rates.default, rules.negative_rates.by_value)
    settings.num_agreeing = job.joiner.agreeing_records
    settings.num_ahead, settings.idle_timeout_s = num_ahead(job.joiner.max_records), job.joiner.idle_timeout_s
    settings.max_skew_ms = time_rule.max_skew_ms
    settings.not_from_ms, settings.not_to_ms = time_rule.seconds.start, time_rule.seconds.stop
    return settings


class CorePartition:
    """The joiner of one partition; `core` is its state in memory, `position` follows it."""

    def __init__(self, settings: _core.JoinerSettings, rules: Rules, position: Position, now_s: float) -> None:
        self.position, self._rules = position, rules
        self.expected: dict[str, bytes] = {}  # entries of the store, as of the last commit
        self.kinds = kinds_of(rules)
        self.core = _core.JoinerPartition(settings, astuple(position.watermark), position.offsets, now_s)

    def resume(self) -> None:
        """Go on from the position, with the requests that the core remembers now."""
        progress = self.position.progress
        self.core.resume(progress.offsets, astuple(progress.watermark), progress.advanced_ms, progress.open)

    def run(self, now_s: float, wall_ms: int) -> tuple[int, bool]:
        """Process the records read ahead and close windows; return their number, and whether more windows are due."""
        result = self.core.run(now_s, wall_ms)
        progress = self.position.progress
        progress.offsets, progress.watermark = self.core.offsets, WatermarkState(*self.core.watermark)
        return result

    def recover(self, input_topic: InputTopic, records: Sequence[Record], judge: Judge, wall_ms: int) -> None:
        """Process records that an earlier run has processed, and move the position past them."""
        offsets, values = [record.offset for record in records], [record.value for record in records]
        self.core.recover(input_topic, offsets, values, wall_ms, partial(judge.judge, input_topic, wall_ms=wall_ms))
        progress = self.position.progress
        progress.offsets[input_topic], progress.watermark = offsets[-1] + 1, WatermarkState(*self.core.watermark)

    def forget_wall_clock(self, wall_ms: int) -> None:
        """Believe that the wall clock is right now, whatever it was at the last advance."""
        self.core.forget_wall_clock(wall_ms)
        self.position.progress.watermark = WatermarkState(*self.core.watermark)

    def is_forgotten(self, time_ms: int) -> bool:
        """Return whether every request with an impression of this event time is forgotten by now."""
        watermark_ms = self.position.watermark.watermark_ms
        return watermark_ms is not None and watermark_ms >= self._rules.forget_ms(time_ms)

    def note_progress(self) -> None:
        """Write into the position how far requests are closed, before a commit."""
        self.core.reach()
        progress = self.position.progress
        progress.advanced_ms, progress.closed_ms = self.core.advanced_ms, self.core.closed_ms

    def note_step(self) -> None:
        """Move the place from which a state must be built again, after an append."""
        self.position.progress.open = OpenPlace(*self.core.end_step(self.position.examples_end, self.position.step))

    def changes(self, keys: StateKeys, number: int) -> tuple[dict[str, bytes], list[str]]:
        """Return the puts and deletes of the step in Kv, for partition `number`, and note its blocks in the position."""
        puts, deletes, first, stop = self.core.changes()
        self.position.blocks = [first, stop]
        return {keys.block(number, block): value for block, value in puts}, [keys.block(number, block) for block in deletes]

    def features(self, names: Sequence[str]) -> FeatureColumns:
        """Return the named sparse features of all emissions of the step, in order."""
        columns = self.core.counted_columns(names)
        return FeatureColumns(self.core.num_emitted, {name: SparseColumn(fids, lengths) for name, (fids, lengths) in columns.items()})

    def increments(self) -> Int64Array:
        """Return the increments of each emission to the counters of its fids: int64 (B, 1 + tasks), examples and positives."""
        _, firsts, labels = self.core.emissions()
        increments: Int64Array = np.column_stack([firsts.astype("int64"), self._rules.labels.positives(labels)])
        return increments


def parts_of_step(
    step: _core.JoinedStep, ranges: Sequence[tuple[int, int]], encoding: Encoding, metadata: PartMetadata, max_bytes: int
) -> list[Part]:
    """Return the examples [start, stop) of each range in order, as records of at most `encoding.size` examples and about `max_bytes`."""
    parts: list[Part] = []
    for begin, end in ranges:
        left = [(start, min(start + encoding.size, end)) for start in range(begin, end, encoding.size)][::-1]
        while left:
            start, stop = left.pop()
            value = encode_joined(step.examples(start, stop), encoding.rules.tasks, metadata(len(parts), stop == ranges[-1][1]))
            if len(value) <= max_bytes or stop - start == 1:
                parts.append(Part(value, start, stop))
            else:
                middle = (start + stop) // 2
                left += [(middle, stop), (start, middle)]
    return parts
