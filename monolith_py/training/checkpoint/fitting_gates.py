"""Fitting of the saved gates of a mixture of experts to a model with other features or tasks.

Letters: T tasks, I inputs, n scores of a task.
"""

from __future__ import annotations

import numpy as np
import torch

from monolith_py.data.columns import Int64Array
from monolith_py.model.gates import Gates
from monolith_py.training.checkpoint.fitted import FittedModel, Tensors, take

_PREFIX = "experts.gates"


def fit_gates(gates: Gates, places: tuple[Int64Array, Int64Array], saved: Tensors, fitted: FittedModel) -> None:
    """Set the gates to those saved, by `places` of tasks (T,) and inputs (I,) among the saved ones, -1 for new ones.

    New inputs start at weight 0; gates of new tasks start anew, as do all after a change of the experts or of the kind of gate.
    """
    tasks, inputs = places
    num_scores, num_experts = gates.gating.num_scores, gates.gating.num_experts
    before = saved.get(f"{_PREFIX}.weight")
    num_saved = sum(name.startswith("experts.towers.") and name.endswith(".layers.0.bias") for name in saved)
    if before is None or num_saved != num_experts or len(before) != num_scores * len(saved["head.bias"]):
        fitted.lines.append("gates: started anew, the experts or the kind of gate are others")
        return
    rows = (tasks[:, None] * num_scores + np.arange(num_scores)).ravel()
    rows[np.repeat(tasks < 0, num_scores)] = -1  # (T * n,)
    known, at = torch.from_numpy(np.flatnonzero(rows >= 0)), torch.from_numpy(rows[rows >= 0])
    gates.weight[known] = take(before, (np.arange(len(before)), inputs))[at]
    gates.bias[known] = saved[f"{_PREFIX}.bias"][at]
    gates.resume(saved[f"{_PREFIX}.learnt"])
    fitted.keep(f"{_PREFIX}.weight", rows, inputs)
    fitted.keep(f"{_PREFIX}.bias", rows)
    fitted.lines.append(f"gates: {int((tasks >= 0).sum())} of {len(tasks)} tasks kept")
