"""Rules on examples beyond their format: those of the job's schema, and the one on event time."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from monolith_py import _core
from monolith_py.clock import Clock
from monolith_py.config import JobConfig
from monolith_py.data.columns import InputForm
from monolith_py.data.events import EventTimeRule
from monolith_py.data.schema import Schema
from monolith_py.errors import ClockStepped, WireError


@dataclass(frozen=True)
class ExampleRules:
    """Rules on the examples of one job."""

    tasks: tuple[str, ...]
    form: InputForm
    time_rule: EventTimeRule
    clock: Clock
    wall_offset_ms: int  # wall clock less the monotonic one, at the start
    from_ms: int = 0  # examples of an earlier event time are left out

    @staticmethod
    def of(job: JobConfig, clock: Clock) -> ExampleRules:
        """Return the rules of `job`."""
        schema = Schema.of(job)
        return ExampleRules(tuple(schema.tasks), schema.input_form, EventTimeRule.of(job.log), clock, _wall_offset_ms(clock))

    def check(self, tasks: Collection[str], widths: Mapping[str, int]) -> None:
        """Check that a record of these tasks and dense widths fits the schema: it is put aside as a whole, not example by example.

        Raises:
            WireError: a task has no label, or a dense feature has another width.
        """
        missing = [task for task in self.tasks if task not in tasks]
        if missing:
            raise WireError(f"examples.labels must have every task, got none for {missing}")
        dims = dict(self.form.dense) if widths else {}
        for name, width in widths.items():
            expected = dims.get(name, width)
            if width != expected:
                raise WireError(f"examples.d_{name} must have {expected} values a row, got {width}")

    def split(self, record: _core.ExampleRecord, start: int, stop: int) -> tuple[list[tuple[int, int]], list[tuple[int, str]]]:
        """Return the runs of rows in [start, stop) whose event time is in order, and each of the others with the rule that it breaks.

        Examples before `from_ms` are in neither.

        Raises:
            ClockStepped: examples are ahead of the wall clock, which went back since the start.
        """
        wall_ms = self.clock.now_ms()
        first_ms, last_ms = record.time_range_ms
        if first_ms >= self.from_ms and not self.time_rule.may_break(first_ms, last_ms, wall_ms):
            return [(start, stop)], []
        times_ms = record.times_ms[start:stop]
        early = times_ms < self.from_ms
        broken = self.time_rule.broken(times_ms, wall_ms) & ~early
        left_out = broken | early
        if not left_out.any():
            return [(start, stop)], []
        stepped_ms = self.wall_offset_ms - _wall_offset_ms(self.clock)
        if stepped_ms > self.time_rule.max_skew_ms:
            raise ClockStepped(f"the wall clock must not go back by more than log.max_clock_skew_s, got {stepped_ms} ms: set it right")
        edges = [0, *(np.flatnonzero(np.diff(left_out)) + 1).tolist(), len(times_ms)]
        runs = [(start + first, start + last) for first, last in pairwise(edges) if not left_out[first]]
        faults = [(row, self.time_rule.fault(int(times_ms[row]), wall_ms)) for row in np.flatnonzero(broken).tolist()]
        return runs, [(start + row, f"examples.{fault}") for row, fault in faults]

    def check_clock(self, watermark_ms: int) -> None:
        """Check that the wall clock has reached the event time of a checkpoint.

        Raises:
            ClockStepped: it has not, so sound examples would be put aside.
        """
        wall_ms = self.clock.now_ms()
        if wall_ms < watermark_ms - self.time_rule.max_skew_ms:
            rule = f"must have reached the event time {watermark_ms} ms of the checkpoint"
            raise ClockStepped(f"the wall clock {rule}, got {wall_ms} ms: set it right")


def _wall_offset_ms(clock: Clock) -> int:
    return clock.now_ms() - round(clock.monotonic_s() * 1000)
