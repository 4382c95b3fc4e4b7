"""Findings of the shadow arm and of the rollback."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from monolith_streaming.compare import ArmFigures, Difference


@dataclass(frozen=True)
class RollbackFindings:
    """Measurements of one rollback."""

    checkpoint: str  # that became the newest
    examples_taken_back: int
    version_before: str  # "generation.seq" that the replica served
    version_after: str
    took_s: float  # from the start of the trainer until a request was answered by the rolled-back generation
    examples_after: int  # learnt once the trainer had gone on to the end of the log


@dataclass(frozen=True)
class ArmFindings:
    """Figures of the arms, and the rollback."""

    figures: Sequence[ArmFigures]
    differences: Sequence[Difference]
    rollback: RollbackFindings
