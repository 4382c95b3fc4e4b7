"""Optimizers of the live atoms of sparse layers, with state for live atoms only, and of whole parameters: SGD, Adagrad, Adam.

Letters: k live atoms of a layer, h weights of an atom.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from monolith_py import _core
from monolith_py.tower.layers.sparse_linear import SparseLinear

Newborn = Literal["count", "reset", "seed", "warm"]
_FIELDS = {"sgd": (), "adagrad": ("sum",), "adam": ("exp_avg", "exp_avg_sq")}


@dataclass(frozen=True)
class AtomRule:
    """Update rule: SGD, Adagrad (Duchi et al. 2011) or Adam (Kingma and Ba 2015), as in torch.optim.

    Adam has a step count for each atom, and so its own bias correction: under a step count of the layer, the first step of a newborn
    would be (1 - beta1) / sqrt(1 - beta2) = 3.2 times the learning rate.
    """

    kind: Literal["sgd", "adagrad", "adam"] = "adam"
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8


class ParameterOptimizer:
    """Optimizer of whole parameters. In the core each parameter is one atom, with one step count."""

    def __init__(self, parameters: Mapping[str, Tensor], rule: AtomRule) -> None:
        """Start with zero state; `state` uses the names of `parameters`."""
        self._parameters, self._rule = dict(parameters), rule
        self._state = {name: _zeros(rule, 1, value.numel()) for name, value in parameters.items()}

    def step(self, lr: float, grad_scale: float = 1.0) -> None:
        """Take a step by `grad / grad_scale` of each parameter that has a gradient; gradients are unchanged."""
        values, gradients, states = [], [], []
        for name, value in self._parameters.items():
            if value.grad is not None:
                values.append(value.detach().view(1, -1))
                gradients.append(value.grad.contiguous().view(1, -1))
                states.append(self._state[name])
        _take_step(self._rule, values, gradients, states, lr, grad_scale)

    def state(self) -> dict[str, Tensor]:
        """Return the state by names such as "exp_avg.head.bias", without a copy; `restore` continues bit-equal from it."""
        return {f"{field}.{name}": value for name, state in self._state.items() for field, value in state.items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from the result of `state`.

        Raises:
            ValueError: a name, shape or dtype does not fit the parameters.
        """
        for name, state in self._state.items():
            self._state[name] = {field: _copy_of(value, tensors, f"{field}.{name}") for field, value in state.items()}


class AtomOptimizer:
    """Optimizer of the `values` of sparse layers; their biases belong to a `ParameterOptimizer`.

    `newborn` sets the moments of newborn atoms. "count" and "reset" are zeros, with a step count of their own or the highest of the
    layer. "seed" is the mean second moment of the layer's live atoms. "warm" keeps moments of dead atoms too, and requires gradients of
    all atoms at every step.
    """

    def __init__(self, layers: Sequence[SparseLinear], rule: AtomRule, newborn: Newborn = "count") -> None:
        """Start with zero state for every live atom."""
        self.layers, self._rule, self._newborn = tuple(layers), rule, newborn
        self._state = [_zeros(rule, layer.num_live, layer.atom_size) for layer in layers]
        # Moments of all atoms, (blocks * places, h), if dead atoms have moments too.
        self._all = [_zeros(rule, layer.num_atoms, layer.atom_size) for layer in layers] if self.is_warm else []

    @property
    def is_warm(self) -> bool:
        """Return whether dead atoms have moments, which requires gradients of all atoms at every step."""
        return self._newborn == "warm" and self._rule.kind != "sgd"

    def step(self, lr: float, grad_scale: float = 1.0) -> None:
        """Take a step by `values.grad / grad_scale` of each layer that has a gradient; gradients are unchanged."""
        values, gradients, states = [], [], []
        for index, layer in enumerate(self.layers):
            if layer.values.grad is None or not layer.num_live:
                continue
            if self.is_warm:
                self._update_warm(index)
            values.append(layer.values.detach())
            gradients.append(layer.values.grad)
            states.append(self._state[index])
        _take_step(self._rule, values, gradients, states, lr, grad_scale)

    def momentum(self, index: int) -> Tensor:
        """Return |first moment| of all atoms of a layer, dead or live, (blocks * places, h); requires `is_warm`."""
        assert self.is_warm
        return self._all[index]["exp_avg"].abs()

    def place(self, index: int, sources: Tensor, born: Tensor) -> None:
        """Reorder the state of a layer for its new topology.

        `sources`: int64 (k,), the previous place of each live atom, -1 for a newborn. `born`: int64 (n,), the places of the newborns among
        all atoms of the layer, ascending.
        """
        old = self._state[index]
        newborn = sources < 0
        new = {name: value[sources.clamp(min=0)] for name, value in old.items()}
        if len(old["step"]) == 0:
            new = _zeros(self._rule, len(sources), self.layers[index].atom_size)
        for name, value in new.items():
            value[newborn] = 0
            if name == "step" and self._newborn in ("reset", "seed", "warm") and len(old["step"]):
                value[newborn] = old["step"].max()
            elif name == "exp_avg_sq" and self._newborn == "seed" and len(old["step"]):
                value[newborn] = old[name].mean()
            elif name != "step" and self.is_warm:
                value[newborn] = self._all[index][name][born]
        self._state[index] = new

    def state(self) -> dict[str, Tensor]:
        """Return the state by names such as "0.exp_avg", without a copy; `restore` continues bit-equal from it."""
        named = {f"{index}.{name}": value for index, state in enumerate(self._state) for name, value in state.items()}
        return named | {f"{index}.all.{name}": value for index, state in enumerate(self._all) for name, value in state.items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Continue from the result of `state`; the layers must have the topology of that moment.

        Raises:
            ValueError: a name, shape or dtype does not fit the layers.
        """
        for index, layer in enumerate(self.layers):
            self._state[index] = self._restored(tensors, f"{index}.", layer.num_live, layer.atom_size)
            if self.is_warm:
                self._all[index] = self._restored(tensors, f"{index}.all.", layer.num_atoms, layer.atom_size)

    def _restored(self, tensors: Mapping[str, Tensor], prefix: str, num_atoms: int, size: int) -> dict[str, Tensor]:
        expected = _zeros(self._rule, num_atoms, size)
        return {field: _copy_of(value, tensors, prefix + field) for field, value in expected.items()}

    def _update_warm(self, index: int) -> None:
        """Update the moments of all atoms by this step's gradients, with the formula that the core applies to live atoms."""
        total, state, rule = self.layers[index].gradient_sum, self._all[index], self._rule
        assert total is not None, "warm newborns need the gradient of all atoms at every step"
        gradient = total.view(next(iter(state.values())).shape)
        if rule.kind == "adam":
            state["exp_avg"].lerp_(gradient, 1 - rule.beta1)
            state["exp_avg_sq"].mul_(rule.beta2).addcmul_(gradient, gradient, value=1 - rule.beta2)
        else:
            state["sum"].addcmul_(gradient, gradient)


def _zeros(rule: AtomRule, num_atoms: int, size: int) -> dict[str, Tensor]:
    """Return the initial state of atoms: moments float32 (k, h), step counts int32 (k,)."""
    state = {field: torch.zeros(num_atoms, size) for field in _FIELDS[rule.kind]}
    return state | {"step": torch.zeros(num_atoms, dtype=torch.int32)}


def _take_step(
    rule: AtomRule,
    values: Sequence[Tensor],
    gradients: Sequence[Tensor],
    states: Sequence[Mapping[str, Tensor]],
    lr: float,
    grad_scale: float,
) -> None:
    """Update values and states, each float32 (k, h), by gradients of the same shapes / `grad_scale`, in one call of the core."""
    if rule.kind == "sgd":
        for value, gradient in zip(values, gradients, strict=True):
            value.add_(gradient, alpha=-lr / grad_scale)
        return
    into, given = [value.numpy() for value in values], [gradient.numpy() for gradient in gradients]
    fields = {field: [state[field].numpy() for state in states] for field in _FIELDS[rule.kind]}
    if rule.kind == "adam":
        steps = [state["step"].numpy().view(np.uint32) for state in states]
        moments = fields["exp_avg"], fields["exp_avg_sq"]
        _core.tower_adam(into, given, *moments, steps, lr, rule.beta1, rule.beta2, rule.eps, grad_scale)
    else:
        _core.tower_adagrad(into, given, fields["sum"], lr, rule.eps, grad_scale)
    torch.autograd.graph.increment_version(values)  # a backward of a forward before this step must fail, as in torch


def _copy_of(expected: Tensor, tensors: Mapping[str, Tensor], name: str) -> Tensor:
    """Return a copy of the tensor `name`, which must have the shape and dtype of `expected`."""
    value = tensors.get(name)
    if value is None or value.shape != expected.shape or value.dtype != expected.dtype:
        got = "none" if value is None else f"{tuple(value.shape)} {value.dtype}"
        raise ValueError(f"{name} must be {tuple(expected.shape)} {expected.dtype}, got {got}")
    return value.clone()
