"""Optimizer of the dense parameters; it also updates the topology of sparse layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from monolith_py import _core
from monolith_py.config import DenseOptimizerConfig
from monolith_py.config.sparsity import SparsityConfig
from monolith_py.model import RankModel
from monolith_py.tower import AtomOptimizer, AtomRule, ParameterOptimizer, SparseLinear, TopologyUpdater
from monolith_py.training.bias_start import BiasStart


class PendingGradients:
    """Gradients summed since the last step, with their loss and number of examples."""

    def __init__(self) -> None:
        self.num_examples = 0
        self._loss = 0.0
        self._gradients: dict[str, Tensor] = {}  # by parameter
        self._sums: dict[str, Tensor] = {}  # of all atoms, by layer, where a layer collects them
        self._squares: dict[str, Tensor] = {}  # of inputs, by layer, where a layer collects them

    def add(self, parameters: Mapping[str, Tensor], layers: Sequence[SparseLinear], loss: float, num_examples: int) -> None:
        """Add the gradients that the parameters hold, and those of all atoms that the layers have collected."""
        self.num_examples += num_examples
        self._loss += loss
        for name, parameter in parameters.items():
            if parameter.grad is not None:
                _add(self._gradients, name, parameter.grad)
        for index, layer in enumerate(layers):
            if layer.gradient_sum is not None:
                _add(self._sums, str(index), layer.gradient_sum)
            if layer.input_squares is not None:
                _add(self._squares, str(index), layer.input_squares)

    def take(self, parameters: Mapping[str, Tensor], layers: Sequence[SparseLinear]) -> tuple[float, int]:
        """Give the sums to the parameters and layers, forget them, and return their summed loss and number of examples."""
        for name, parameter in parameters.items():
            parameter.grad = self._gradients.get(name)
        for index, layer in enumerate(layers):
            layer.gradient_sum = self._sums.get(str(index))
            layer.input_squares = self._squares.get(str(index))
        taken = self._loss, self.num_examples
        self.num_examples, self._loss, self._gradients, self._sums, self._squares = 0, 0.0, {}, {}, {}
        return taken

    def state(self) -> dict[str, Tensor]:
        """Return everything that `restore` needs."""
        tensors = {"counts": torch.tensor([self.num_examples, self._loss], dtype=torch.float64)}
        tensors |= {f"gradient.{name}": value for name, value in self._gradients.items()}
        tensors |= {f"square.{name}": value for name, value in self._squares.items()}
        return tensors | {f"sum.{name}": value for name, value in self._sums.items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the result of `state`."""
        num_examples, self._loss = tensors["counts"].tolist()
        self.num_examples = int(num_examples)
        self._gradients, self._sums, self._squares = {}, {}, {}
        into = {"gradient": self._gradients, "sum": self._sums, "square": self._squares}
        for key, value in tensors.items():
            part, _, name = key.partition(".")
            if part != "counts":
                into[part][name] = value.clone()


def _add(sums: dict[str, Tensor], name: str, value: Tensor) -> None:
    if name in sums:
        sums[name] += value
    else:
        sums[name] = value.clone()


class DenseOptimizer:
    """Optimizer of the model's parameters, from the gradients of a loss summed over the batch.

    The values of sparse layers, which change in number, have an `AtomOptimizer`; all other parameters have a `ParameterOptimizer` of the
    same rule. `updater` moves the topology of the sparse layers and is None without one; `seed` is for its random growth. `bias_start` sets
    the bias of a new model until the first step.
    """

    def __init__(
        self, model: RankModel, config: DenseOptimizerConfig, sparsity: SparsityConfig, seed: int, examples_per_step: int | None = None
    ) -> None:
        """Start from the model's current parameters. `examples_per_step`: `reference_batch` by default."""
        self._config, self._lr_scale = config, sparsity.lr_scale
        layers = model.sparse_layers
        of_atoms = {id(layer.values) for layer in layers}
        self._plain = {name: value for name, value in model.named_parameters() if id(value) not in of_atoms}
        rule = AtomRule(config.kind, config.beta1, config.beta2, config.eps)
        self._whole = ParameterOptimizer(self._plain, rule)
        self._atoms = AtomOptimizer(layers, rule, sparsity.newborn)
        self.updater = TopologyUpdater(layers, self._atoms, sparsity, seed) if layers else None
        self._examples_per_step = examples_per_step or config.reference_batch
        self._pending = PendingGradients()
        self.bias_start = BiasStart(model.head.bias, self._examples_per_step, model.links)

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

    def batch_limit(self, batch_size: int) -> int:
        """Return the number of examples that the next batch may have: it ends where the next step is due.

        Steps then lie at the same examples of a stream, for any record sizes.
        """
        pending = self._pending.num_examples
        return min(batch_size, self._examples_per_step - pending) if pending else batch_size

    def step(self, loss: float, num_examples: int) -> bool:
        """Add the gradients of a batch, which must be finite, and its summed loss; step once `examples_per_step` examples are pending.

        Adam's moments, rates and step counts then depend on examples, not on batch sizes. Return whether the topology changed.
        """
        layers = self._atoms.layers
        if self._pending.num_examples or num_examples < self._examples_per_step:
            self._pending.add(self._named_parameters(), layers, loss, num_examples)
            if self._pending.num_examples < self._examples_per_step:
                return False
            loss, num_examples = self._pending.take(self._named_parameters(), layers)
        return self._step(loss, num_examples)

    def _step(self, loss: float, num_examples: int) -> bool:
        """Step by the gradients that the parameters hold, of `num_examples` examples with this summed loss."""
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
        tensors |= {f"bias_start.{name}": value for name, value in self.bias_start.state().items()}
        return tensors | {f"pending.{name}": value for name, value in self._pending.state().items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Continue from the result of `state`; restore the model first.

        Raises:
            KeyError, ValueError: the state is of another model or of other settings.
        """
        parts: dict[str, dict[str, Tensor]] = {"whole": {}, "atoms": {}, "topology": {}, "pending": {}, "bias_start": {}}
        for key, value in tensors.items():
            part, _, name = key.partition(".")
            parts[part][name] = value
        self._whole.restore(parts["whole"])
        self._atoms.restore(parts["atoms"])
        if self.updater is not None:
            self.updater.restore(parts["topology"])
        self._pending.restore(parts["pending"])
        self.bias_start.restore(parts["bias_start"])

    def _parameters(self) -> list[Tensor]:
        """Return all current parameters: an update of the topology replaces those of sparse layers."""
        return [*self._plain.values(), *(layer.values for layer in self._atoms.layers)]

    def _named_parameters(self) -> dict[str, Tensor]:
        """Return all current parameters by name, those of sparse layers by the layer's index."""
        return {**self._plain, **{f"atoms.{index}": layer.values for index, layer in enumerate(self._atoms.layers)}}
