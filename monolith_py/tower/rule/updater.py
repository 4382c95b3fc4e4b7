"""Updater of the topology of sparse layers during training: collects scores, applies the rule.

Letters: k live atoms of a layer, h weights of an atom.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from monolith_py import _core
from monolith_py.config.sparsity import SparsityConfig
from monolith_py.tower.layers.atoms import Mask, Scores
from monolith_py.tower.layers.sparse_linear import SparseLinear
from monolith_py.tower.optimizer import AtomOptimizer
from monolith_py.tower.rule.density import atom_targets
from monolith_py.tower.rule.drift import DriftTest
from monolith_py.tower.rule.history import SwapHistory
from monolith_py.tower.rule.masks import choose_by
from monolith_py.tower.rule.schedule import density_at, drop_fraction_at, is_due
from monolith_py.tower.rule.topology import ScoredLayer

_logger = logging.getLogger(__name__)

# Of a feature without rows or of a block of zeros: scores and weights stay finite.
_SMALLEST = 1e-12


class TopologyUpdater:
    """Dynamic sparse learning (Wang et al. 2024; Evci et al. 2020) of `layers`, by the rule of `topology` and `SparsityConfig`.

    Each training step calls, in this order: `before_backward`; backward; `after_backward`, only if all gradients are finite; the step of
    the optimizer; `after_step`. The topology is a pure function of weights, gradients, losses and seed.
    """

    def __init__(self, layers: Sequence[SparseLinear], optimizer: AtomOptimizer, config: SparsityConfig, seed: int) -> None:
        """Start from the current topology of `layers`."""
        self.layers, self.config, self.history = tuple(layers), config, SwapHistory([layer.live for layer in layers])
        self._optimizer, self._seed = optimizer, seed
        rearms = config.drop_fraction_schedule == "cosine" and config.on_cosine_end == "rearm"
        self._drift = DriftTest(config.drift_rise) if rearms else None
        self._step = self._steps_since_armed = 0
        swaps = config.drop_fraction_schedule != "none"
        self._scores_by_batches = (swaps and config.grow_criterion == "gradient") or (
            config.drop_criterion == "taylor" and config.score_scale == "input_rms"
        )
        # Sums since the last swap: gradients of all atoms over the last batches; |sum of weight * gradient| of the live atoms over all
        # batches, to first order the change of the loss without the atom (Molchanov et al. 2017, equation 7).
        self._gradients: list[Tensor | None] = [None] * len(layers)
        # |gradient|^2 of all atoms, summed over the same batches as the gradients.
        self._energies: list[Tensor | None] = [None] * len(layers)
        self._taylor: list[Tensor] = [torch.zeros(layer.num_live) for layer in layers]
        # Mean squares of the first layer's inputs, summed over the last batches.
        self._squares: Tensor | None = None

    @property
    def lr_scale(self) -> float:
        """Return the learning rate of live atoms as a multiple of that of dense parameters."""
        scale = self.config.lr_scale
        return density_at(self.config, self._step) ** -0.5 if scale == "density" else scale

    def before_backward(self) -> None:
        """Make the layers collect gradients of all atoms in the coming backward, if a score or the optimizer needs them."""
        collecting = self._optimizer.is_warm or self._is_scoring()
        for layer in self.layers:
            shape = (layer.num_blocks, layer.num_places, layer.atom_size)
            layer.gradient_sum = torch.zeros(shape) if collecting else None
            layer.input_squares = torch.zeros(layer.in_features) if collecting and self._is_scaled(layer) else None

    def after_backward(self, num_examples: int) -> None:
        """Add the gradients of backward, those of a loss summed over `num_examples`, to the scores."""
        scoring = self._is_scoring()
        for index, layer in enumerate(self.layers):
            if layer.gradient_sum is not None:
                layer.gradient_sum /= num_examples
                if scoring:
                    self._gradients[index] = _added(self._gradients[index], layer.gradient_sum)
                    if self.config.min_agreement:
                        self._energies[index] = _added(self._energies[index], layer.gradient_sum.square().sum(dim=2))
            if layer.input_squares is not None and scoring:
                self._squares = _added(self._squares, layer.input_squares / num_examples)
        if self.config.drop_criterion == "taylor":
            known = [index for index, layer in enumerate(self.layers) if layer.values.grad is not None]
            values = [self.layers[index].values for index in known]
            gradients = [value.grad.numpy() for value in values if value.grad is not None]
            sums = [self._taylor[index].numpy() for index in known]
            _core.tower_taylor([value.detach().numpy() for value in values], gradients, sums, num_examples)

    def after_step(self, loss: float, num_examples: int) -> bool:
        """Count a step on `num_examples` of mean progressive loss `loss`, update the topology if due; return whether it was."""
        for layer in self.layers:
            layer.gradient_sum = layer.input_squares = None
        self._step += 1
        self._steps_since_armed += 1
        if self._drift is not None and self._drift.update(loss, num_examples):
            _logger.info("drift: the loss rose, the drop fraction restarts at step %d", self._step)
            self._steps_since_armed = 0
        if not is_due(self.config, self._step, self._steps_since_armed):
            return False
        self._update_topology()
        return True

    def state(self) -> dict[str, Tensor]:
        """Return the state; `restore` continues bit-equal from it, given the layers and the optimizer."""
        tensors = {"steps": torch.tensor([self._step, self._steps_since_armed])}
        tensors |= {f"taylor.{index}": value for index, value in enumerate(self._taylor)}
        tensors |= {f"gradient.{index}": value for index, value in enumerate(self._gradients) if value is not None}
        tensors |= {f"energy.{index}": value for index, value in enumerate(self._energies) if value is not None}
        if self._squares is not None:
            tensors["squares"] = self._squares
        tensors |= {f"history.{name}": torch.from_numpy(np.asarray(value)) for name, value in self.history.state().items()}
        if self._drift is not None:
            tensors |= {f"drift.{name}": torch.tensor(value, dtype=torch.float64) for name, value in self._drift.state().items()}
        return tensors

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from the result of `state`; the layers must have the topology of that moment.

        Raises:
            ValueError: the state is of other layers or settings.
        """
        parts: dict[str, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            part, _, rest = name.partition(".")
            parts.setdefault(part, {})[rest] = value
        self._step, self._steps_since_armed = (int(value) for value in parts["steps"][""])
        self.history.restore({name: value.numpy() for name, value in parts["history"].items()})
        for index, layer in enumerate(self.layers):
            self._taylor[index] = parts["taylor"][str(index)].clone()
            if len(self._taylor[index]) != layer.num_live:
                raise ValueError(f"taylor.{index} must have {layer.num_live} atoms, got {len(self._taylor[index])}")
            gradient = parts.get("gradient", {}).get(str(index))
            self._gradients[index] = None if gradient is None else gradient.clone()
            energy = parts.get("energy", {}).get(str(index))
            self._energies[index] = None if energy is None else energy.clone()
        squares = parts.get("squares")
        self._squares = None if squares is None else squares[""].clone()
        if self._drift is not None:
            self._drift.restore({name: float(value) for name, value in parts["drift"].items()})

    def resume(self, num_steps: int) -> None:
        """Continue the schedule after `num_steps` steps of the optimizer, for layers without a saved state."""
        if self._step != num_steps:
            self._step = self._steps_since_armed = num_steps

    def _is_scoring(self) -> bool:
        """Return whether the gradients of the next step count for the next swap."""
        config = self.config
        if not self._scores_by_batches:
            return False
        left = -(self._step + 1) % config.update_interval  # steps between the next one and the swap
        due = self._step + 1 + left
        return left < config.score_batches and is_due(config, due, self._steps_since_armed + 1 + left)

    def _update_topology(self) -> None:
        config = self.config
        shapes = [(layer.out_features, layer.in_features) for layer in self.layers]
        targets = atom_targets(config, shapes, density_at(config, self._step))
        newborns: Sequence[Mask | None] = self.history.newborns(config.protect_swaps) if config.protect_swaps else [None] * len(self.layers)
        before = [layer.live for layer in self.layers]
        scored = [
            ScoredLayer(
                live, self._keep_scores(index, live), self._grow_scores(index, live), protected, self.layers[index].input_groups, ripe
            )
            for index, (live, protected, ripe) in enumerate(zip(before, newborns, self._ripe(), strict=True))
        ]
        after = choose_by(config, scored, targets, drop_fraction_at(config, self._steps_since_armed))
        for index, (old, new) in enumerate(zip(before, after, strict=True)):
            self._move(index, old, new)
        self.history.record(after)
        self._squares = None

    def _is_scaled(self, layer: SparseLinear) -> bool:
        """Return whether scores of the layer are divided by the size of its inputs."""
        return self.config.score_scale == "input_rms" and layer.atom != "neuron" and bool(layer.input_groups)

    def _scale(self, index: int) -> Scores | float:
        """Return the divisor of a layer's gradient and Taylor scores: the RMS of each input's feature, (I,), or 1."""
        layer = self.layers[index]
        if self._squares is None or not self._is_scaled(layer):
            return 1.0
        means = [part.mean() for part in torch.split(self._squares, list(layer.input_groups))]
        widths = torch.tensor(layer.input_groups)
        rms = torch.stack(means).sqrt().clamp(min=_SMALLEST).repeat_interleave(widths)
        return np.asarray(rms.numpy())

    def _ripe(self) -> list[Mask | None]:
        """Return the atoms of each layer that a swap may grow; None for all."""
        config = self.config
        if not config.min_agreement:
            return [None] * len(self.layers)
        masks: list[Mask | None] = []
        for layer, total, energy in zip(self.layers, self._gradients, self._energies, strict=True):
            if total is None or energy is None:
                masks.append(np.zeros(layer.grid, np.bool_))
                continue
            least = config.min_agreement * config.score_batches * energy
            masks.append(np.asarray((total.square().sum(dim=2) >= least).numpy()).reshape(layer.grid))
        return masks

    def _keep_scores(self, index: int, live: Mask) -> Scores:
        layer = self.layers[index]
        scores = np.zeros(live.shape, np.float32)
        taylor = self.config.drop_criterion == "taylor"
        scores[live] = (self._taylor[index] if taylor else layer.values.detach().abs().sum(dim=1)).numpy()
        return scores / self._scale(index) if taylor else scores

    def _grow_scores(self, index: int, live: Mask) -> Scores:
        config = self.config
        if config.grow_criterion == "random":
            generator = np.random.default_rng((self._seed, index, self.history.num_swaps))
            return generator.random(live.shape, np.float32)
        if config.grow_criterion == "momentum" and config.drop_fraction_schedule != "none":
            return np.asarray(self._optimizer.momentum(index).sum(dim=1).numpy()).reshape(live.shape)
        total = self._gradients[index]
        if total is None:
            return np.zeros(live.shape, np.float32)
        return np.asarray(total.abs().sum(dim=2).numpy()).reshape(live.shape) / self._scale(index)

    def _move(self, index: int, old: Mask, new: Mask) -> None:
        """Set the mask of a layer and reorder its optimizer state; newborn weights are zero.

        The bias of a newborn neuron is half the bound of torch's start values: under ReLU, weights of zero get no gradient without it.
        """
        layer = self.layers[index]
        self._gradients[index] = self._energies[index] = None
        self._taylor[index] = torch.zeros(int(new.sum()))
        if np.array_equal(old, new):
            return
        places = np.full(old.shape, -1, np.int64)
        places[old] = np.arange(old.sum())
        sources = torch.from_numpy(places[new])
        norms = _block_norms(layer)
        values = layer.values.detach()[sources.clamp(min=0)]
        values[sources < 0] = 0
        layer.place(new, values)
        if self.config.keep_norm and len(sources) < int(old.sum()):
            layer.values.data *= (norms / _block_norms(layer).clamp(min=_SMALLEST)).repeat_interleave(layer.bounds.diff()).unsqueeze(1)
        if layer.atom == "neuron":
            layer.bias.data[torch.from_numpy(new & ~old)] = 0.5 * layer.in_features**-0.5
        self._optimizer.place(index, sources, torch.from_numpy(np.flatnonzero(new & ~old)))


def _block_norms(layer: SparseLinear) -> Tensor:
    """Return the norm of the live weights of each block, (blocks,)."""
    sums = layer.values.detach().square().sum(dim=1).cumsum(dim=0, dtype=torch.float64)
    return torch.cat((sums.new_zeros(1), sums))[layer.bounds.long()].diff().clamp(min=0).sqrt().float()


def _added(total: Tensor | None, value: Tensor) -> Tensor:
    return value.clone() if total is None else total.add_(value)
