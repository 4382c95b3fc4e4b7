"""What learns all that is dense of a model, and moves the topology of what is sparse of that."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from monolith_py import _core
from monolith_py.config import DenseOptimizerConfig
from monolith_py.model import RankModel
from monolith_py.sparsity import SparsityConfig
from monolith_py.tower import AtomOptimizer, AtomRule, Swaps


class _Scaled:
    """A torch optimizer that divides the gradients by `grad_scale` as it reads them, which the fused kernels do."""

    grad_scale: Tensor | None = None


class _Adam(_Scaled, torch.optim.Adam):
    pass


class _Adagrad(_Scaled, torch.optim.Adagrad):
    pass


class _Sgd(_Scaled, torch.optim.SGD):
    pass


class DenseOptimizer:
    """Learns a model's parameters from the gradients of a summed loss, at the rate of their mean.

    The values of sparse layers have an `AtomOptimizer`, as their number changes; all other parameters have torch's optimizer of the
    same kind. `seed` is for what the rule of the topology leaves to chance.
    """

    def __init__(self, model: RankModel, config: DenseOptimizerConfig, sparsity: SparsityConfig, seed: int) -> None:
        self._config, self._lr_scale = config, sparsity.lr_scale
        layers = model.tower.sparse_layers
        of_atoms = {id(layer.values) for layer in layers}
        self._plain = {name: value for name, value in model.named_parameters() if id(value) not in of_atoms}
        self._torch = _torch_optimizer(list(self._plain.values()), config)
        self._atoms = AtomOptimizer(layers, AtomRule(config.kind, config.beta1, config.beta2, config.eps), sparsity.newborn)
        self.swaps = Swaps(layers, self._atoms, sparsity, seed) if layers else None

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
        for group in self._torch.param_groups:
            group["lr"] = lr
        self._torch.grad_scale = torch.tensor(float(num_examples))
        self._torch.step()
        if self.swaps is None:
            return False
        if gradients := [layer.values.grad for layer in self._atoms.layers if layer.values.grad is not None]:
            torch._foreach_div_(gradients, num_examples)
        self.swaps.after_backward(num_examples)
        self._atoms.step(lr * self._lr_scale)
        return self.swaps.after_step(loss / num_examples, num_examples)

    def state(self) -> dict[str, Tensor]:
        """Return everything that `restore` needs to go on bit-equal, beside the model's own state: the tensors are still in use."""
        tensors = {}
        for name, parameter in self._plain.items():
            for field, value in self._torch.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    tensors[f"plain.{field}.{name}"] = value.contiguous()
        tensors |= {f"atoms.{name}": value for name, value in self._atoms.state().items()}
        if self.swaps is not None:
            tensors |= {f"swaps.{name}": value for name, value in self.swaps.state().items()}
        return tensors

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Go on from what `state` returned; the model must be restored already.

        Raises:
            KeyError, ValueError: the state is of another model or other settings.
        """
        parts: dict[str, dict[str, Tensor]] = {"plain": {}, "atoms": {}, "swaps": {}}
        for key, value in tensors.items():
            part, _, name = key.partition(".")
            parts[part][name] = value
        for key, value in parts["plain"].items():
            field, _, name = key.partition(".")
            state: dict[str, Any] = self._torch.state[self._plain[name]]
            state[field] = value
        self._atoms.restore(parts["atoms"])
        if self.swaps is not None:
            self.swaps.restore(parts["swaps"])

    def _parameters(self) -> list[Tensor]:
        """Return all parameters as they are now: those of sparse layers are replaced when their topology moves."""
        return [*self._plain.values(), *(layer.values for layer in self._atoms.layers)]


def _torch_optimizer(parameters: list[Tensor], config: DenseOptimizerConfig) -> Any:
    if config.kind == "adam":
        return _Adam(parameters, lr=config.lr, betas=(config.beta1, config.beta2), eps=config.eps, fused=True)
    if config.kind == "adagrad":
        return _Adagrad(parameters, lr=config.lr, eps=config.eps, fused=True)
    return _Sgd(parameters, lr=config.lr, fused=True)
