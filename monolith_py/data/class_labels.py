"""Labels of multiclass tasks: of several actions on a candidate the strongest counts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from monolith_py.config import TaskConfig
from monolith_py.data.columns import FloatArray


def strongest(labels: FloatArray, tasks: Sequence[TaskConfig]) -> FloatArray:
    """Return labels, float32 (n, T), without those of weaker classes than the strongest of a task.

    `tasks`: their settings in order; () if all are binary.

    >>> what = TaskConfig(name="what", kind="multiclass", classes=("click", "like"))
    >>> strongest(np.float32([[1, 1], [1, 0]]), [what]).tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """
    found, place = labels.copy(), 0
    for task in tasks:
        stop = place + len(task.outputs)
        if task.kind == "multiclass":
            given = labels[:, place:stop]
            stronger = np.cumsum(given[:, ::-1], axis=1)[:, ::-1] - given
            found[:, place:stop] = given * (stronger == 0)
        place = stop
    return found
