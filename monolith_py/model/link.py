"""From the outputs of a model to scores: probabilities of binary tasks and of classes, values of regressions.

Letters: B rows, T outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from monolith_py.data.columns import FloatArray
from monolith_py.data.schema import Schema


class Link(NamedTuple):
    """Function from `size` outputs, side by side, to scores.

    "softmax" has one more class, of output 0, which has no score. "value" and "log1p" are never below 0.
    """

    kind: Literal["sigmoid", "softmax", "value", "log1p"]
    size: int = 1


def links_of(schema: Schema) -> tuple[Link, ...]:
    """Return the functions of the tasks in order; () if all are binary."""
    links = []
    for task in schema.settings:
        if task.kind == "regression":
            links.append(Link(task.scale))
        else:
            links.append(Link("sigmoid" if task.kind == "binary" else "softmax", len(task.outputs)))
    return tuple(links)


def scores_of(logits: FloatArray, links: Sequence[Link]) -> FloatArray:
    """Return the scores of outputs, float32 (B, T).

    >>> scores_of(np.float32([[0.0, 0.0, 0.0, -2.0]]), [Link("sigmoid"), Link("softmax", 2), Link("value")]).round(3).tolist()
    [[0.5, 0.3330000042915344, 0.3330000042915344, 0.0]]
    """
    if not links:
        return _sigmoid(logits)
    scores, place = np.empty_like(logits), 0
    for kind, size in links:
        columns = slice(place, place + size)
        values = logits[:, columns]
        if kind == "sigmoid":
            scores[:, columns] = _sigmoid(values)
        elif kind == "softmax":
            greatest = np.maximum(values.max(axis=1, keepdims=True), np.float32(0))
            parts = np.exp(values - greatest)
            scores[:, columns] = parts / (parts.sum(axis=1, keepdims=True) + np.exp(-greatest))
        else:
            scores[:, columns] = np.maximum(np.expm1(values) if kind == "log1p" else values, np.float32(0))
        place += size
    return scores


def _sigmoid(logits: FloatArray) -> FloatArray:
    """Return the probabilities; those near 0 keep their digits, and no logit overflows."""
    small = np.exp(-np.abs(logits))
    scores: FloatArray = np.where(logits < 0, small, np.float32(1)) / (1 + small)
    return scores
