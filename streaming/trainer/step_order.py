"""Order of the joiner's steps in `examples`: a step that comes twice is passed over, a missing one stops the trainer."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

from monolith_py.data.steps import JoinerStep
from monolith_py.errors import StepsMissing
from monolith_py.observe import metrics

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SourcePlace:
    """Place of a trainer in `examples`; an absent partition is at its oldest record."""

    positions: Mapping[int, tuple[int, int]] = field(default_factory=dict)  # partition -> (offset, row) of the next example
    steps: Mapping[int, JoinerStep] = field(default_factory=dict)  # partition -> step of the last record before
    accepts_holes: bool = False


class StepOrder:
    """Follows the steps of each partition. Records without a step are of other writers, such as a replay, and always in order."""

    def __init__(self, topic: str, place: SourcePlace) -> None:
        self._topic, self._accepts_holes = topic, place.accepts_holes
        self._last = dict(place.steps)

    @property
    def last(self) -> dict[int, JoinerStep]:
        """Return the step of the last finished record of each partition that is known."""
        return dict(self._last)

    def is_new(self, partition: int, offset: int, step: JoinerStep | None) -> bool:
        """Return whether the record at `offset` is to be learnt: it does not repeat one.

        Raises:
            StepsMissing: steps before it are missing, and holes are not accepted.
        """
        before = self._last.get(partition)
        if step is None or before is None or before.is_followed_by(step):
            return True
        where = f"{self._topic!r}[{partition}] offset {offset}"
        if not before.precedes(step):
            _logger.warning("%s is passed over: %s comes after %s", where, step, before)
            metrics.EXAMPLE_RECORDS_REPEATED.inc()
            return False
        if step.series != before.series:
            _logger.warning("%s begins another series of steps: %s comes after %s (join --force)", where, step, before)
        elif self._accepts_holes:
            _logger.error("%s: examples are missing: %s comes after %s", where, step, before)
            metrics.EXAMPLE_HOLES.inc()
        else:
            raise StepsMissing(f"{where} must have what follows {before}, got {step}: examples are missing. --accept-hole goes on without")
        return True

    def finish(self, partition: int, step: JoinerStep | None) -> None:
        """Note that the record of `step` was handed out."""
        if step is not None:
            self._last[partition] = step

    def forget(self, partition: int) -> None:
        """Accept any next step: records before it are lost, and were reported."""
        self._last.pop(partition, None)
