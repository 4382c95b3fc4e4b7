"""Checks of the KeyedJaggedTensor of a look-up.

Letters: B rows of the batch, n fids over all features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torchrec.sparse.jagged_tensor import KeyedJaggedTensor


def checked_input(kjt: KeyedJaggedTensor, names: Sequence[str]) -> KeyedJaggedTensor:
    """Return `kjt` with the features `names`, in this order.

    Raises:
        ValueError: fids are not int64 (n,) on the CPU, features are missing or given twice, weights are not finite or not (n,), or the
            batch has a size for each feature or inverse indices.
    """
    if kjt.variable_stride_per_key():
        raise ValueError("the KeyedJaggedTensor must have one batch size for all features, got one for each")
    if kjt.inverse_indices_or_none() is not None:
        raise ValueError("the KeyedJaggedTensor must have no inverse_indices: select the rows of the result by them")
    values = kjt.values()
    if values.dtype != torch.int64 or values.dim() != 1:
        raise ValueError(f"values of the KeyedJaggedTensor must be int64 (n,), got {values.dtype} {tuple(values.shape)}")
    if values.device.type != "cpu":
        raise ValueError(f"values of the KeyedJaggedTensor must be on the CPU, got {values.device}")
    _check_weights(kjt.weights_or_none(), len(values))
    present = kjt.keys()
    if present == names:
        return kjt
    if len(set(present)) != len(present):
        raise ValueError(f"features of the KeyedJaggedTensor must have different names, got {present}")
    if missing := [name for name in names if name not in present]:
        raise ValueError(f"the KeyedJaggedTensor must have features {names}, got {present} without {missing}")
    return kjt.permute([present.index(name) for name in names])


def _check_weights(weights: Tensor | None, num_fids: int) -> None:
    if weights is None:
        return
    if weights.shape != (num_fids,):
        raise ValueError(f"weights of the KeyedJaggedTensor must have the shape of its values, ({num_fids},), got {tuple(weights.shape)}")
    if not bool(torch.isfinite(weights.detach()).all()):
        raise ValueError("weights of the KeyedJaggedTensor must be finite, got NaN or Inf")
