"""Dense half of a replica's model: from pooled rows and dense features to logits, with fixed weights.

Letters: B rows of a batch, F pooled rows of an example, D the greatest of their dims, W width of the dense features, T tasks.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from monolith_py import _core
from monolith_py.config import ModelConfig
from monolith_py.data.columns import FloatArray
from monolith_py.data.schema import Schema
from monolith_py.errors import WireError
from monolith_py.model.fixed import InputSplit, fixed_model, whole_input
from monolith_py.model.fixed_attention import attended, attended_model
from monolith_py.model.shape import ModelShape
from monolith_py.sync import DenseState
from monolith_serving.replica.device import Device

if TYPE_CHECKING:
    from torch import Tensor

    from monolith_py.model import RankModel


class DenseModel:
    """A model of one dense state; immutable. The core computes it, or torch on a device where FBGEMM holds the rows."""

    def __init__(self, schema: Schema, config: ModelConfig, state: DenseState, device: Device | None = None) -> None:
        """Make the model; `device`: that of torch, None for the core.

        Raises:
            WireError: names or shapes do not fit the model.
        """
        self._schema, self._config, self.state, self.device = schema, config, state, device
        self.shape = ModelShape.of(schema, config)
        try:
            self.shape.check(state.tensors)
        except ValueError as error:
            raise WireError(f"dense parameters must fit the model of this job: {error}") from None
        if device is not None:
            self.in_torch  # noqa: B018 - made here, not in the first request

    def after(self, state: DenseState) -> DenseModel:
        """Return the model of another dense state.

        Raises:
            WireError: names or shapes do not fit the model.
        """
        return DenseModel(self._schema, self._config, state, self.device)

    def fixed(self, split: InputSplit) -> _core.FixedModel:
        """Return the model in the core, for pooled rows and dense features that are shared as `split` says."""
        if self.shape.attention:
            return attended_model(self.shape, self.state.tensors, split)
        return fixed_model(self.shape, self.state.tensors, split)

    def logits(self, pooled: FloatArray, dense: FloatArray) -> FloatArray:
        """Return the core's logits float32 (B, T) from pooled rows (B, sum of dims) and dense features (B, W)."""
        if self.shape.attention:
            pooled = attended(self.shape.attention, self.state.tensors, pooled)
        if pooled.shape[1] < self.shape.num_rows * self.shape.dim:
            padded = np.zeros((len(pooled), self.shape.num_rows * self.shape.dim), np.float32)
            padded[:, self.shape.padded_rows] = pooled
            pooled = padded
        out = np.empty((len(pooled), self.shape.num_tasks), np.float32)
        self._whole.logits(pooled, np.ascontiguousarray(dense), out)
        return out

    @cached_property
    def in_torch(self) -> RankModel:
        """Return the model in torch, with packed weights, on its device or the CPU."""
        import torch

        from monolith_py.model import build_model

        model = build_model(self._schema, self._config, 0).to(self.device.type if self.device else "cpu")
        weights: dict[str, Tensor] = {name: torch.from_numpy(array.copy()) for name, array in self.state.tensors.items()}
        model.load_state_dict(weights)
        model.freeze()
        return model

    @cached_property
    def _whole(self) -> _core.FixedModel:
        return fixed_model(self.shape, self.state.tensors, whole_input(self.shape))
