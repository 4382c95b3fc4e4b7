"""What learns the live atoms of sparse layers: SGD, Adagrad or Adam, with state for live atoms alone.

Letters: k live atoms of a layer, h weights of an atom.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from monolith_py import _core
from monolith_py.tower.sparse_linear import SparseLinear

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


class AtomOptimizer:
    """Steps the `values` of layers by their gradients; biases are others' to learn.

    Newborn atoms get the moments that `newborn` says: "count" and "reset" zeros, under a step count of their own or the layer's oldest;
    "seed" the mean second moment of the layer's live atoms; "warm" those kept up while they were dead, for which the layers' gradients of
    all atoms must be collected at every step.
    """

    def __init__(self, layers: Sequence[SparseLinear], rule: AtomRule, newborn: Newborn = "count") -> None:
        """Begin with zeros for every live atom."""
        self.layers, self._rule, self._newborn = tuple(layers), rule, newborn
        self._fields = _FIELDS[rule.kind]
        self._state = [self._zeros(layer.num_live, layer.atom_size) for layer in layers]
        # Moments of all atoms, (blocks * places, h), where the dead have them too.
        self._all = [self._zeros(layer.num_atoms, layer.atom_size) for layer in layers] if self.is_warm else []

    @property
    def is_warm(self) -> bool:
        """Return whether dead atoms have moments, which asks for the gradient of all atoms at every step."""
        return self._newborn == "warm" and self._rule.kind != "sgd"

    def step(self, lr: float) -> None:
        """Take a step by `values.grad` of each layer, which is left as it is; a layer without one stays."""
        for index, layer in enumerate(self.layers):
            if layer.values.grad is None or not layer.num_live:
                continue
            if self.is_warm:
                self._keep_warm(index)
            state = {name: value.numpy() for name, value in self._state[index].items()}
            values, gradient, rule = layer.values.detach().numpy(), layer.values.grad.numpy(), self._rule
            if rule.kind == "adam":
                moments = state["exp_avg"], state["exp_avg_sq"], state["step"].view(np.uint32)
                _core.tower_adam(values, gradient, *moments, lr, rule.beta1, rule.beta2, rule.eps)
            elif rule.kind == "adagrad":
                _core.tower_adagrad(values, gradient, state["sum"], lr, rule.eps)
            else:
                layer.values.data.add_(layer.values.grad, alpha=-lr)

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
            new = self._zeros(len(sources), self.layers[index].atom_size)
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
            self._state[index] = _taken(self._zeros(layer.num_live, layer.atom_size), tensors, f"{index}.")
            if self.is_warm:
                self._all[index] = _taken(self._zeros(layer.num_atoms, layer.atom_size), tensors, f"{index}.all.")

    def _zeros(self, num_atoms: int, size: int) -> dict[str, Tensor]:
        state = {name: torch.zeros(num_atoms, size) for name in self._fields}
        return state | {"step": torch.zeros(num_atoms, dtype=torch.int32)}

    def _keep_warm(self, index: int) -> None:
        """Bring the moments of all atoms up to this step; the live have the same beside their values."""
        total, state, rule = self.layers[index].gradient_sum, self._all[index], self._rule
        assert total is not None, "warm newborns need the gradient of all atoms at every step"
        gradient = total.view(state[self._fields[0]].shape)
        if rule.kind == "adam":
            state["exp_avg"].lerp_(gradient, 1 - rule.beta1)
            state["exp_avg_sq"].mul_(rule.beta2).addcmul_(gradient, gradient, value=1 - rule.beta2)
        else:
            state["sum"].addcmul_(gradient, gradient)


def _taken(expected: dict[str, Tensor], tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors of these names, which must be of the expected shapes and types."""
    taken = {}
    for name, like in expected.items():
        value = tensors.get(prefix + name)
        if value is None or value.shape != like.shape or value.dtype != like.dtype:
            got = "none" if value is None else f"{tuple(value.shape)} {value.dtype}"
            raise ValueError(f"{prefix}{name} must be {tuple(like.shape)} {like.dtype}, got {got}")
        taken[name] = value.clone()
    return taken
