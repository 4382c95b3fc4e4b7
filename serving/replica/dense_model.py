"""Dense half of a replica's model: from pooled rows and dense features to logits, with fixed weights.

Letters: B rows of a batch, F pooled rows of an example, D the greatest of their dims, W width of the dense features, T tasks.
"""

from __future__ import annotations

import threading
from contextlib import suppress
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
from monolith_py.model.link import links_of
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
        self._fixed: dict[tuple[InputSplit, bool], _core.FixedModel] = {}
        self._packing = threading.Lock()
        self.shape, self.links = ModelShape.of(schema, config), links_of(schema)
        try:
            self.shape.check(state.tensors)
        except ValueError as error:
            raise WireError(f"dense parameters must fit the model of this job: {error}") from None
        if device is not None:
            self.in_torch  # noqa: B018 - made here, not in the first request

    def after(self, state: DenseState) -> DenseModel:
        """Return the model of another dense state, in the core for the same splits of its inputs, so that no request waits for that.

        Raises:
            WireError: names or shapes do not fit the model.
        """
        model = DenseModel(self._schema, self._config, state, self.device)
        with suppress(MemoryError):  # then at the first use
            for split, attends in [*self._fixed]:
                model._packed(split, attends=attends)
        return model

    def fixed(self, split: InputSplit) -> _core.FixedModel:
        """Return the model in the core, for pooled rows and dense features that are shared as `split` says; it is made once."""
        return self._packed(split, attends=bool(self.shape.attention))

    def _packed(self, split: InputSplit, *, attends: bool) -> _core.FixedModel:
        """Return the model in the core; `attends`: from the rows of sequences, else from those attended."""
        key = split, attends
        fixed = self._fixed.get(key)
        if fixed is None:
            with self._packing:
                fixed = self._fixed.get(key) or self._made(split, attends=attends)
                self._fixed[key] = fixed
        return fixed

    def _made(self, split: InputSplit, *, attends: bool) -> _core.FixedModel:
        model = (attended_model if attends else fixed_model)(self.shape, self.state.tensors, split)
        model.set_links([(kind, size) for kind, size in self.links])
        return model

    def logits(self, pooled: FloatArray, dense: FloatArray) -> FloatArray:
        """Return the core's logits float32 (B, T) from pooled rows (B, sum of dims) and dense features (B, W)."""
        if self.shape.attention:
            pooled = attended(self.shape.attention, self.state.tensors, pooled)
        if pooled.shape[1] < self.shape.num_rows * self.shape.dim:
            padded = np.zeros((len(pooled), self.shape.num_rows * self.shape.dim), np.float32)
            padded[:, self.shape.padded_rows] = pooled
            pooled = padded
        out = np.empty((len(pooled), self.shape.num_tasks), np.float32)
        self._packed(self._whole, attends=False).logits(pooled, np.ascontiguousarray(dense), out)
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
    def _whole(self) -> InputSplit:
        return whole_input(self.shape)
