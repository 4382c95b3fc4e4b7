"""Scores at request time, carried from an impression into its examples.

Letters: B candidates or examples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from monolith_py.data.columns import FloatArray, Int32Array


class ServedModel(NamedTuple):
    """Model that scored a candidate; empty texts if the impression does not say.

    >>> ServedModel("live", "3.41").generation
    '3'
    """

    arm: str
    version: str  # "generation.seq"

    @property
    def generation(self) -> str:
        """Return the generation of the version: the number of the trainer's start."""
        return self.version.partition(".")[0]


@dataclass(frozen=True)
class ServedScores:
    """Scores of B candidates at request time.

    >>> served = ServedScores({"click": np.array([0.25, 0.5], np.float32)}, (ServedModel("live", "3.41"),), np.zeros(2, np.int32))
    >>> len(served), served.slice(1, 2).scores["click"].tolist()
    (2, [0.5])
    """

    scores: Mapping[str, FloatArray]  # task -> (B,) probabilities, NaN for a candidate without a score
    models: tuple[ServedModel, ...]
    model_codes: Int32Array  # (B,) index into `models`

    def __len__(self) -> int:
        return len(self.model_codes)

    def slice(self, start: int, stop: int) -> ServedScores:
        """Return candidates [start, stop)."""
        scores = {task: values[start:stop] for task, values in self.scores.items()}
        return ServedScores(scores, self.models, self.model_codes[start:stop])

    @staticmethod
    def concat(parts: Sequence[ServedScores | None], sizes: Sequence[int]) -> ServedScores | None:
        """Return the candidates of all parts in order; a part of `sizes[i]` candidates that is None has no scores. None if all are."""
        if all(part is None for part in parts):
            return None
        tasks = dict.fromkeys(task for part in parts if part for task in part.scores)
        models: dict[ServedModel, int] = {}
        codes = [_codes(models, part, size) for part, size in zip(parts, sizes, strict=True)]
        scores = {task: np.concatenate([_scores(part, task, size) for part, size in zip(parts, sizes, strict=True)]) for task in tasks}
        return ServedScores(scores, tuple(models), np.concatenate(codes))


def _codes(models: dict[ServedModel, int], part: ServedScores | None, size: int) -> Int32Array:
    """Return the codes of a part in the common `models`, which grow by the part's."""
    own = part.models if part else (ServedModel("", ""),)
    common = np.array([models.setdefault(model, len(models)) for model in own], np.int32)
    codes: Int32Array = common[part.model_codes if part else np.zeros(size, np.int32)]
    return codes


def _scores(part: ServedScores | None, task: str, size: int) -> FloatArray:
    scores = part.scores.get(task) if part else None
    return np.full(size, np.nan, np.float32) if scores is None else scores
