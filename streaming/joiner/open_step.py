"""The open step of a joiner: when it is time to commit it."""

from __future__ import annotations

from monolith_py.clock import Clock
from monolith_py.config import JoinerConfig


class OpenStep:
    """Records of the open step, and its age.

    A step is due once it has examples for a whole record, or `max_records` records, or `linger_s` after its first record. One with
    examples is due already once `linger_s` has passed since the last step with examples: after a pause the first example does not wait,
    and in steady traffic it waits for half of `linger_s` on the mean.

    >>> from monolith_py.clock import ManualClock
    >>> clock = ManualClock()
    >>> step = OpenStep(JoinerConfig(linger_s=0.05), clock)
    >>> clock.advance(1.0)
    >>> step.note(1, has_changes=True)
    >>> step.is_due(num_emitted=0), step.is_due(num_emitted=1)
    (False, True)
    """

    def __init__(self, config: JoinerConfig, clock: Clock) -> None:
        self._config, self._clock = config, clock
        self._num_records = 0
        self._began_s: float | None = None
        self._emitted_s = clock.monotonic_s()  # the last commit of a step with examples

    @property
    def num_records(self) -> int:
        """Return the number of records read."""
        return self._num_records

    def note(self, num_records: int, *, has_changes: bool) -> None:
        """Note that so many more records were read; `has_changes`: there is something to commit."""
        self._num_records += num_records
        if self._began_s is None and (has_changes or self._num_records):
            self._began_s = self._clock.monotonic_s()

    def is_due(self, num_emitted: int) -> bool:
        """Return whether to commit; `num_emitted` is the most examples that the step has for one partition."""
        if self._began_s is None:
            return False
        since_s = min(self._began_s, self._emitted_s) if num_emitted else self._began_s
        return (
            num_emitted >= self._config.examples_per_record
            or self._num_records >= self._config.max_records
            or self._clock.monotonic_s() - since_s >= self._config.linger_s
        )

    def close(self, num_emitted: int) -> None:
        """Begin the next step: this one, with so many examples, is committed."""
        if num_emitted:
            self._emitted_s = self._clock.monotonic_s()
        self._num_records, self._began_s = 0, None
