"""What learns the live atoms of sparse layers, with state for live atoms alone, and all other parameters: SGD, Adagrad or Adam.

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
    """One step: SGD, Adagrad (Duchi et al. 2011) or Adam (Kingma and Ba 2015), as in torch.optim.

    Adam counts the steps of each atom on its own, so that one born late has its own bias correction: under the layer's count its first
    step would be (1 - beta1) / sqrt(1 - beta2) = 3.2 rates long.
    """

    kind: Literal["sgd", "adagrad", "adam"] = "adam"
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8


class ParameterOptimizer:
    """Steps whole parameters by their gradients: to the core each is one atom, with one count of steps."""

    def __init__(self, parameters: Mapping[str, Tensor], rule: AtomRule) -> None:
        """Begin with zeros; names are those of `state`."""
        self._parameters, self._rule = dict(parameters), rule
        self._state = {name: _zeros(rule, 1, value.numel()) for name, value in parameters.items()}

    def step(self, lr: float, grad_scale: float = 1.0) -> None:
        """Take a step by `grad / grad_scale` of each parameter, which is left as it is; one without a gradient stays."""
        values, gradients, states = [], [], []
        for name, value in self._parameters.items():
            if value.grad is not None:
                values.append(value.detach().view(1, -1))
                gradients.append(value.grad.contiguous().view(1, -1))
                states.append(self._state[name])
        _take_step(self._rule, values, gradients, states, lr, grad_scale)

    def state(self) -> dict[str, Tensor]:
        """Return everything that `restore` needs to go on bit-equal: the optimizer's own tensors, by names such as "exp_avg.head.bias"."""
        return {f"{field}.{name}": value for name, state in self._state.items() for field, value in state.items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `state` returned.

        Raises:
            ValueError: names or shapes do not fit the parameters.
        """
        for name, state in self._state.items():
            self._state[name] = {field: _taken(value, tensors, f"{field}.{name}") for field, value in state.items()}


class AtomOptimizer:
    """Steps the `values` of layers by their gradients; biases are others' to learn.

    Newborn atoms get the moments that `newborn` says: "count" and "reset" zeros, under a step count of their own or the layer's oldest;
    "seed" the mean second moment of the layer's live atoms; "warm" those kept up while they were dead, for which the layers' gradients of
    all atoms must be collected at every step.
    """

    def __init__(self, layers: Sequence[SparseLinear], rule: AtomRule, newborn: Newborn = "count") -> None:
        """Begin with zeros for every live atom."""
        self.layers, self._rule, self._newborn = tuple(layers), rule, newborn
        self._state = [_zeros(rule, layer.num_live, layer.atom_size) for layer in layers]
        # Moments of all atoms, (blocks * places, h), where the dead have them too.
        self._all = [_zeros(rule, layer.num_atoms, layer.atom_size) for layer in layers] if self.is_warm else []

    @property
    def is_warm(self) -> bool:
        """Return whether dead atoms have moments, which asks for the gradient of all atoms at every step."""
        return self._newborn == "warm" and self._rule.kind != "sgd"

    def step(self, lr: float, grad_scale: float = 1.0) -> None:
        """Take a step by `values.grad / grad_scale` of each layer, which is left as it is; a layer without one stays."""
        values, gradients, states = [], [], []
        for index, layer in enumerate(self.layers):
            if layer.values.grad is None or not layer.num_live:
                continue
            if self.is_warm:
                self._keep_warm(index)
            values.append(layer.values.detach())
            gradients.append(layer.values.grad)
            states.append(self._state[index])
        _take_step(self._rule, values, gradients, states, lr, grad_scale)

    def momentum(self, index: int) -> Tensor:
        """Return |first moment| of all atoms of a layer, dead or live, (blocks * places, h); only while `is_warm`."""
        assert self.is_warm
        return self._all[index]["exp_avg"].abs()

    def place(self, index: int, sources: Tensor, born: Tensor) -> None:
        """Follow a layer to another topology.

        `sources`: int64 (k,), for each live atom its place among those before, -1 for one that is born; `born`: int64 (n,), where the
        newborns lie among all atoms of the layer, in order.
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
        """Return everything that `restore` needs to go on bit-equal: the optimizer's own tensors, by names such as "0.exp_avg"."""
        named = {f"{index}.{name}": value for index, state in enumerate(self._state) for name, value in state.items()}
        return named | {f"{index}.all.{name}": value for index, state in enumerate(self._all) for name, value in state.items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Go on from what `state` returned; the layers must be at their topology of then.

        Raises:
            ValueError: names or shapes do not fit the layers.
        """
        for index, layer in enumerate(self.layers):
            self._state[index] = self._restored(tensors, f"{index}.", layer.num_live, layer.atom_size)
            if self.is_warm:
                self._all[index] = self._restored(tensors, f"{index}.all.", layer.num_atoms, layer.atom_size)

    def _restored(self, tensors: Mapping[str, Tensor], prefix: str, num_atoms: int, size: int) -> dict[str, Tensor]:
        expected = _zeros(self._rule, num_atoms, size)
        return {field: _taken(value, tensors, prefix + field) for field, value in expected.items()}

    def _keep_warm(self, index: int) -> None:
        """Bring the moments of all atoms up to this step; the live have the same beside their values."""
        total, state, rule = self.layers[index].gradient_sum, self._all[index], self._rule
        assert total is not None, "warm newborns need the gradient of all atoms at every step"
        gradient = total.view(next(iter(state.values())).shape)
        if rule.kind == "adam":
            state["exp_avg"].lerp_(gradient, 1 - rule.beta1)
            state["exp_avg_sq"].mul_(rule.beta2).addcmul_(gradient, gradient, value=1 - rule.beta2)
        else:
            state["sum"].addcmul_(gradient, gradient)


def _zeros(rule: AtomRule, num_atoms: int, size: int) -> dict[str, Tensor]:
    """Return the state of atoms that have not learnt: moments float32 (k, h), and the count of steps int32 (k,)."""
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
    """Change values and states, each float32 (k, h), by gradients of the same shapes over `grad_scale`: all in one call of the core."""
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


def _taken(expected: Tensor, tensors: Mapping[str, Tensor], name: str) -> Tensor:
    """Return a copy of the tensor of this name, which must be of the expected shape and type."""
    value = tensors.get(name)
    if value is None or value.shape != expected.shape or value.dtype != expected.dtype:
        got = "none" if value is None else f"{tuple(value.shape)} {value.dtype}"
        raise ValueError(f"{name} must be {tuple(expected.shape)} {expected.dtype}, got {got}")
    return value.clone()
