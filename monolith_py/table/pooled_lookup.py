"""Pooled look-up as an autograd function, and the optimizer step of the rows at the end of a backward pass.

Letters: B rows of the batch, F features, n fids over all features, D the sum of the features' dims.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from monolith_py import _core
from monolith_py.errors import PoisonedBatch, TableFull
from monolith_py.table.embedding_table import NO_ROW
from monolith_py.table.views import FloatArray, Int64Array, UInt32Array

_MOST = 2.0**48  # bound of a gradient: its square, summed over a batch, is finite


@dataclass(frozen=True)
class Lookup:
    """One look-up of a batch in the tables of all features."""

    cores: Sequence[_core.Table]  # (F,)
    pooling: Sequence[int]  # (F,) 0 sums, 1 takes the mean, -n keeps the rows of the first n fids
    learns: Sequence[bool]  # (F,) features whose fids are counted, inserted and updated
    width: int  # D
    num_rows: int  # B
    offsets: Int64Array  # (F * B + 1,)
    now_s: int
    steps: RowSteps  # takes the gradients

    def span(self, feature: int) -> slice:
        """Return the positions of a feature's fids."""
        return slice(int(self.offsets[feature * self.num_rows]), int(self.offsets[(feature + 1) * self.num_rows]))


@dataclass(frozen=True)
class RowGradients:
    """Rows of a look-up with the gradient of their pooled values."""

    lookup: Lookup
    fids: Int64Array  # (n,)
    rows: UInt32Array  # (n,) NO_ROW for positions that do not learn
    released: Sequence[int]  # (F,) rows that each table had freed at the look-up
    weights: FloatArray | None  # (n,)
    gradients: FloatArray  # (B, D)


@dataclass
class RowSteps:
    """Gradients of rows that wait for their optimizer step, which takes all look-ups of a backward pass at once.

    With `defers`, they wait for a call of `step` instead of the end of the backward pass. Passes may run inside of each other, and on
    several threads.
    """

    defers: bool
    before_step: Callable[[], None]
    rows_touched: int = 0  # updated by the last step
    rows_dropped: int = 0  # positions of the last step whose fid lost its row after the look-up
    _deferred: list[RowGradients] = field(default_factory=list)
    # By the number of the backward pass in torch: its thread and gradients.
    _passes: dict[int, tuple[int, list[RowGradients]]] = field(default_factory=dict)

    def add(self, part: RowGradients) -> None:
        """Add gradients within a backward pass.

        Raises:
            PoisonedBatch: a product of weight and gradient, or a deferred gradient, is not finite or too large.
        """
        if part.weights is not None and not _bounded_product(part.weights, part.gradients):
            raise PoisonedBatch("gradient of the rows, times their weight, must be below 2^48, got NaN, Inf or more; no row was changed")
        if self.defers and not _core.all_bounded([part.gradients]):
            raise PoisonedBatch("gradient of the pooled rows must be below 2^48, got NaN, Inf or more; no row was changed")
        if self.defers:
            self._deferred.append(part)
            return
        current = torch._C._current_graph_task_id()
        if current not in self._passes:
            self._passes[current] = threading.get_ident(), []
            torch.autograd.Variable._execution_engine.queue_callback(lambda: self._step(self._passes.pop(current)[1], 1.0))
        self._passes[current][1].append(part)

    def drop_failed(self) -> None:
        """Drop the gradients of passes of this thread that failed; no effect within a backward pass."""
        if self._passes and torch._C._current_graph_task_id() < 0:
            own = threading.get_ident()
            for number in [number for number, (thread, _) in list(self._passes.items()) if thread == own]:
                del self._passes[number]

    def clear(self) -> None:
        """Drop the gradients that wait for a call of `step`."""
        self._deferred.clear()

    def step(self, scale: float) -> None:
        """Take one optimizer step with the sum of the deferred gradients times `scale`; they are dropped, also on an error.

        Raises:
            PoisonedBatch: a gradient is not finite or too large; no row was changed.
        """
        parts = list(self._deferred)
        self.clear()
        self._step(parts, scale)

    def _step(self, parts: Sequence[RowGradients], scale: float) -> None:
        self.rows_touched = self.rows_dropped = 0
        if not parts:
            return
        one = parts[0] if len(parts) == 1 else _joined(parts)
        gradients = one.gradients if scale == 1.0 else np.ascontiguousarray(one.gradients * np.float32(scale))
        self.before_step()
        lookup = one.lookup
        try:
            self.rows_touched, self.rows_dropped = _core.pooled_backward(
                lookup.cores, one.fids, one.rows, one.released, lookup.offsets, one.weights, lookup.pooling, gradients
            )
        except _core.NotFinite as error:
            raise PoisonedBatch(str(error)) from None


class PooledLookup(torch.autograd.Function):
    """Look-up and pooling in the core; backward hands the gradient of the rows to `RowSteps` and returns that of the weights."""

    @staticmethod
    def forward(ctx: Any, _anchor: Tensor | None, fids: Tensor, weights: Tensor | None, lookup: Lookup) -> Tensor:
        """Return the pooled rows, (B, D)."""
        pooled = torch.empty(lookup.num_rows, lookup.width)
        rows: UInt32Array = np.empty(len(fids), np.uint32)
        scales = None if weights is None else weights.detach().to(torch.float32).contiguous().numpy()
        ids, out = fids.numpy(), pooled.numpy()
        try:
            released = _core.pooled_forward(
                lookup.cores, ids, lookup.offsets, scales, lookup.pooling, lookup.now_s, lookup.learns, out, rows
            )
        except _core.TableFull as error:
            raise TableFull(str(error)) from None
        ctx.lookup, ctx.rows, ctx.released = lookup, rows, released
        ctx.save_for_backward(fids, weights)  # raises in backward if one was changed meanwhile
        if ctx.needs_input_grad[2]:
            ctx.values = [_gathered(core, rows[lookup.span(index)]) for index, core in enumerate(lookup.cores)]
        if not all(lookup.learns):
            for index, learns in enumerate(lookup.learns):
                if not learns:
                    rows[lookup.span(index)] = NO_ROW
        return pooled

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of the weights, (n,), if wanted."""
        lookup: Lookup = ctx.lookup
        fids, weights = ctx.saved_tensors
        gradient = gradients[0].detach().to(torch.float32).contiguous()  # (B, D)
        if any(lookup.learns):
            scales = None if weights is None else weights.detach().to(torch.float32).contiguous().numpy()
            lookup.steps.add(RowGradients(lookup, fids.numpy(), ctx.rows, ctx.released, scales, gradient.numpy()))
        if not ctx.needs_input_grad[2]:
            return None, None, None, None
        return None, None, _weight_gradient(lookup, ctx.values, gradient).to(weights.dtype), None


def _gathered(core: _core.Table, rows: UInt32Array) -> Tensor:
    values = np.empty((len(rows), core.dim), np.float32)
    core.gather(np.ascontiguousarray(rows), values)
    return torch.from_numpy(values)


def _weight_gradient(lookup: Lookup, values: Sequence[Tensor], gradient: Tensor) -> Tensor:
    """Return the gradient of each position's weight, (n,): the dot product of its row with the gradient that the row receives."""
    parts, column = [], 0
    for index, (pooling, rows) in enumerate(zip(lookup.pooling, values, strict=True)):
        dim = rows.shape[1]
        lengths = np.diff(lookup.offsets[index * lookup.num_rows : (index + 1) * lookup.num_rows + 1])
        bags = torch.from_numpy(np.repeat(np.arange(lookup.num_rows), lengths))  # (n,) of the feature
        if pooling < 0:
            starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
            place = torch.from_numpy(np.arange(len(bags)) - starts)
            own = gradient[:, column : column - pooling * dim].reshape(lookup.num_rows, -pooling, dim)
            part = (own[bags, place.clamp(max=-pooling - 1)] * rows).sum(1) * (place < -pooling)
            column -= pooling * dim
        else:
            part = (gradient[:, column : column + dim][bags] * rows).sum(1)
            if pooling == 1:
                part = part / torch.from_numpy(lengths)[bags]
            column += dim
        parts.append(part)
    return torch.cat(parts)


def _bounded_product(weights: FloatArray, gradients: FloatArray) -> bool:
    if not (weights.size and gradients.size):
        return True
    with np.errstate(invalid="ignore", over="ignore"):
        product = np.abs(weights).max().astype(np.float64) * np.abs(gradients).max().astype(np.float64)
    return bool(product < _MOST)


def _joined(parts: Sequence[RowGradients]) -> RowGradients:
    """Return several look-ups as one of all their features, so that rows with a fid in common take one step."""
    num_rows = max(part.lookup.num_rows for part in parts)
    ends, gradients, start = [], [], 0
    for part in parts:
        look = part.lookup
        own = look.offsets
        for index in range(len(look.cores)):
            bounds = own[index * look.num_rows : (index + 1) * look.num_rows + 1] + start
            ends.append(np.pad(bounds[1:], (0, num_rows - look.num_rows), mode="constant", constant_values=bounds[-1]))
        start += len(part.fids)
        gradients.append(np.pad(part.gradients, ((0, num_rows - look.num_rows), (0, 0))))
    has_weights = any(part.weights is not None for part in parts)
    ones = [np.ones(len(part.fids), np.float32) if part.weights is None else part.weights for part in parts]
    lookups = [part.lookup for part in parts]
    lookup = Lookup(
        cores=[core for one in lookups for core in one.cores],
        pooling=[how for one in lookups for how in one.pooling],
        learns=[learns for one in lookups for learns in one.learns],
        width=sum(one.width for one in lookups),
        num_rows=num_rows,
        offsets=np.concatenate([np.zeros(1, np.int64), *ends]),
        now_s=lookups[-1].now_s,
        steps=lookups[0].steps,
    )
    return RowGradients(
        lookup,
        fids=np.concatenate([part.fids for part in parts]),
        rows=cast(UInt32Array, np.concatenate([part.rows for part in parts])),
        released=[count for part in parts for count in part.released],
        weights=np.concatenate(ones) if has_weights else None,
        gradients=np.concatenate(gradients, axis=1),
    )
