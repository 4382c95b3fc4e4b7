"""Numbers of the joiner's steps, which each record of `examples` carries."""

from __future__ import annotations

from typing import NamedTuple


class JoinerStep(NamedTuple):
    """Place of a record among the records that the joiner wrote to its partition.

    A step is what the joiner appended at once: the records `part` 0, 1, ... up to the one with `is_last`.
    """

    series: int  # wall clock in ms of the start of the numbering; only `monolith join --force` starts another one
    number: int  # of the step in its series, from 1
    part: int
    is_last: bool
    epoch: int  # number of the joiner's start

    def is_followed_by(self, other: JoinerStep) -> bool:
        """Return whether `other` is the mark of the next record.

        >>> JoinerStep(0, 7, 1, True, 2).is_followed_by(JoinerStep(0, 8, 0, False, 3))
        True
        """
        number, part = (self.number + 1, 0) if self.is_last else (self.number, self.part + 1)
        return (self.series, number, part) == (other.series, other.number, other.part)

    def precedes(self, other: JoinerStep) -> bool:
        """Return whether `other` is later in the same series, or the first of a later one."""
        if other.series != self.series:
            return other.series > self.series and (other.number, other.part) == (1, 0)
        return (other.number, other.part) > (self.number, self.part)

    def __str__(self) -> str:
        return f"step {self.number} part {self.part} of series {self.series} (epoch {self.epoch})"
