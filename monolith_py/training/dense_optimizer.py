"""What learns all that is dense of a model, and moves the topology of what is sparse of that."""

from __future__ import annotations

import torch
from torch import Tensor

from monolith_py import _core
from monolith_py.config import DenseOptimizerConfig
from monolith_py.config.sparsity import SparsityConfig
from monolith_py.model import RankModel
from monolith_py.tower import AtomOptimizer, AtomRule, ParameterOptimizer, TopologyUpdater


class DenseOptimizer:
    """Learns a model's parameters from the gradients of a summed loss, at the rate of their mean.

    The values of sparse layers have an `AtomOptimizer`, as their number changes, and all other parameters the same rule as a whole.
    `seed` is for what the rule of the topology leaves to chance.
    """

    def __init__(self, model: RankModel, config: DenseOptimizerConfig, sparsity: SparsityConfig, seed: int) -> None:
        self._config, self._lr_scale = config, sparsity.lr_scale
        layers = model.tower.sparse_layers
        of_atoms = {id(layer.values) for layer in layers}
        self._plain = {name: value for name, value in model.named_parameters() if id(value) not in of_atoms}
        rule = AtomRule(config.kind, config.beta1, config.beta2, config.eps)
        self._whole = ParameterOptimizer(self._plain, rule)
        self._atoms = AtomOptimizer(layers, rule, sparsity.newborn)
        self.swaps = TopologyUpdater(layers, self._atoms, sparsity, seed) if layers else None

    def before_backward(self) -> None:
        """Forget the gradients of the step before; call ahead of backward."""
        for parameter in self._parameters():
            parameter.grad = None
        if self.swaps is not None:
            self.swaps.before_backward()

    def has_finite_gradients(self) -> bool:
        """Return whether all gradients are finite, with room for their squares, which Adam keeps."""
        gradients = [parameter.grad for parameter in self._parameters() if parameter.grad is not None]
        return bool(_core.all_bounded([gradient.numpy() for gradient in gradients]))

    def step(self, loss: float, num_examples: int) -> bool:
        """Learn from gradients that were found finite, of a batch with this summed loss; return whether the topology moved."""
        config = self._config
        if config.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self._parameters(), config.clip_norm * num_examples)
        lr = config.lr * num_examples / config.reference_batch
        self._whole.step(lr, num_examples)
        if self.swaps is None:
            return False
        self.swaps.after_backward(num_examples)
        self._atoms.step(lr * self._lr_scale, num_examples)
        return self.swaps.after_step(loss / num_examples, num_examples)

    def state(self) -> dict[str, Tensor]:
        """Return everything that `restore` needs to go on bit-equal, beside the model's own state: the tensors are still in use."""
        tensors = {f"whole.{name}": value for name, value in self._whole.state().items()}
        tensors |= {f"atoms.{name}": value for name, value in self._atoms.state().items()}
        if self.swaps is not None:
            tensors |= {f"swaps.{name}": value for name, value in self.swaps.state().items()}
        return tensors

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Go on from what `state` returned; the model must be restored already.

        Raises:
            KeyError, ValueError: the state is of another model or other settings.
        """
        parts: dict[str, dict[str, Tensor]] = {"whole": {}, "atoms": {}, "swaps": {}}
        for key, value in tensors.items():
            part, _, name = key.partition(".")
            parts[part][name] = value
        self._whole.restore(parts["whole"])
        self._atoms.restore(parts["atoms"])
        if self.swaps is not None:
            self.swaps.restore(parts["swaps"])

    def _parameters(self) -> list[Tensor]:
        """Return all parameters as they are now: those of sparse layers are replaced when their topology moves."""
        return [*self._plain.values(), *(layer.values for layer in self._atoms.layers)]
