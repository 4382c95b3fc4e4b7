"""Optimizer of the dense parameters; it also updates the topology of sparse layers."""

from __future__ import annotations

import torch
from torch import Tensor

from monolith_py import _core
from monolith_py.config import DenseOptimizerConfig
from monolith_py.config.sparsity import SparsityConfig
from monolith_py.model import RankModel
from monolith_py.tower import AtomOptimizer, AtomRule, ParameterOptimizer, TopologyUpdater


class DenseOptimizer:
    """Optimizer of the model's parameters, from the gradients of a loss summed over the batch.

    The values of sparse layers, which change in number, have an `AtomOptimizer`; all other parameters have a `ParameterOptimizer` of the
    same rule. `updater` moves the topology of the sparse layers and is None without one; `seed` is for its random growth.
    """

    def __init__(self, model: RankModel, config: DenseOptimizerConfig, sparsity: SparsityConfig, seed: int) -> None:
        self._config, self._lr_scale = config, sparsity.lr_scale
        layers = model.tower.sparse_layers
        of_atoms = {id(layer.values) for layer in layers}
        self._plain = {name: value for name, value in model.named_parameters() if id(value) not in of_atoms}
        rule = AtomRule(config.kind, config.beta1, config.beta2, config.eps)
        self._whole = ParameterOptimizer(self._plain, rule)
        self._atoms = AtomOptimizer(layers, rule, sparsity.newborn)
        self.updater = TopologyUpdater(layers, self._atoms, sparsity, seed) if layers else None

    def before_backward(self) -> None:
        """Clear the gradients of the previous step; call before backward."""
        for parameter in self._parameters():
            parameter.grad = None
        if self.updater is not None:
            self.updater.before_backward()

    def has_finite_gradients(self) -> bool:
        """Return whether all gradients are finite and below 2^48, so that their squares, which Adam sums, are finite."""
        gradients = [parameter.grad for parameter in self._parameters() if parameter.grad is not None]
        return bool(_core.all_bounded([gradient.numpy() for gradient in gradients]))

    def step(self, loss: float, num_examples: int) -> bool:
        """Take a step by the gradients, which must be finite, of the summed `loss`; return whether the topology was updated."""
        config = self._config
        if config.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self._parameters(), config.clip_norm * num_examples)
        lr = config.lr * num_examples / config.reference_batch
        self._whole.step(lr, num_examples)
        if self.updater is None:
            return False
        self.updater.after_backward(num_examples)
        self._atoms.step(lr * self._lr_scale, num_examples)
        return self.updater.after_step(loss / num_examples, num_examples)

    def state(self) -> dict[str, Tensor]:
        """Return the state, without a copy; `restore` continues bit-equal from it, given the model's own state."""
        tensors = {f"whole.{name}": value for name, value in self._whole.state().items()}
        tensors |= {f"atoms.{name}": value for name, value in self._atoms.state().items()}
        if self.updater is not None:
            tensors |= {f"topology.{name}": value for name, value in self.updater.state().items()}
        return tensors

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Continue from the result of `state`; restore the model first.

        Raises:
            KeyError, ValueError: the state is of another model or of other settings.
        """
        parts: dict[str, dict[str, Tensor]] = {"whole": {}, "atoms": {}, "topology": {}}
        for key, value in tensors.items():
            part, _, name = key.partition(".")
            parts[part][name] = value
        self._whole.restore(parts["whole"])
        self._atoms.restore(parts["atoms"])
        if self.updater is not None:
            self.updater.restore(parts["topology"])

    def _parameters(self) -> list[Tensor]:
        """Return all current parameters: an update of the topology replaces those of sparse layers."""
        return [*self._plain.values(), *(layer.values for layer in self._atoms.layers)]
