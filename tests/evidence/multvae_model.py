"""MultVAE with sparse layers (Liang et al. 2018), what learns it, and how it ranks.

Letters: B users of the batch, I items, K dims of the latent, k length of a list.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from multvae_data import FloatArray, Matrix, Split
from torch import Tensor, nn
from torch.nn.functional import log_softmax, normalize

from monolith_py.config.sparsity import SparsityConfig
from monolith_py.tower import AtomOptimizer, AtomRule, ParameterOptimizer, SparseLinear, TopologyUpdater
from monolith_py.tower.layers.atoms import MAX_INPUTS
from monolith_py.tower.layers.core_stack import CoreStack
from monolith_py.tower.rule.density import atom_targets
from monolith_py.tower.rule.masks import first_masks
from monolith_py.tower.rule.schedule import density_at

_logger = logging.getLogger(__name__)

_DROPOUT = 0.5
_LISTS = {"Recall@20": 20, "Recall@50": 50, "NDCG@100": 100}


@dataclass(frozen=True)
class Recipe:
    """How a model learns; the annealing and its cap are the paper's: beta rises over `anneal_steps` to `cap`."""

    hidden: int = 600
    latent: int = 200
    epochs: int = 200
    batch_size: int = 500
    lr: float = 1e-3
    cap: float = 0.2
    anneal_steps: int = 200_000


class MultVae(nn.Module):
    """I-hidden-latent-hidden-I: multinomial likelihood and annealed KL of the paper's section 2; tanh between, no ReLU.

    Its four layers are `SparseLinear` under a preset other than "dense", computed in the core. An input layer of more items than the core
    numbers stays dense, with a warning. Biases are never sparse, as DSL's code has them.
    """

    def __init__(self, num_items: int, recipe: Recipe, sparsity: SparsityConfig, seed: int) -> None:
        super().__init__()
        hidden, latent = recipe.hidden, recipe.latent
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            dense = [nn.Linear(*sizes) for sizes in ((num_items, hidden), (hidden, 2 * latent), (latent, hidden), (hidden, num_items))]
            for layer in dense:
                nn.init.xavier_uniform_(layer.weight)
                nn.init.trunc_normal_(layer.bias, std=0.001)
        self.layers = nn.ModuleList(_sparsified(dense, sparsity, seed))
        self._stacks = [CoreStack([layer], layer.atom, bf16=False) if isinstance(layer, SparseLinear) else layer for layer in self.layers]

    @property
    def sparse_layers(self) -> list[SparseLinear]:
        """Return the layers whose topology may change."""
        return [layer for layer in self.layers if isinstance(layer, SparseLinear)]

    @property
    def num_live_weights(self) -> int:
        """Return how many weights there are, biases not counted."""
        return sum(layer.values.numel() if isinstance(layer, SparseLinear) else layer.weight.numel() for layer in self.layers)

    def forward(self, given: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Return logits (B, I) and KL (B,) of what users have, 0 or 1, (B, I); with a generator the latent is drawn, else its mean."""
        inputs = normalize(given, dim=1)
        if generator is not None:
            kept = torch.rand(inputs.shape, generator=generator) >= _DROPOUT
            inputs = inputs * kept / (1 - _DROPOUT)
        mean, log_variance = self._layer(1, torch.tanh(self._layer(0, inputs))).chunk(2, dim=1)  # (B, K) each
        kl = 0.5 * (log_variance.exp() + mean**2 - 1 - log_variance).sum(dim=1)
        latent = mean
        if generator is not None:
            latent = mean + torch.randn(mean.shape, generator=generator) * (0.5 * log_variance).exp()
        return self._layer(3, torch.tanh(self._layer(2, latent))), kl

    def _layer(self, index: int, inputs: Tensor) -> Tensor:
        layer = self._stacks[index]
        return layer.forward([inputs]) if isinstance(layer, CoreStack) else layer(inputs)


class Learner:
    """Adam for a model's dense parameters and its atoms, and the swaps of its topology."""

    def __init__(self, model: MultVae, recipe: Recipe, sparsity: SparsityConfig, seed: int) -> None:
        self.model, self._recipe = model, recipe
        atoms = {id(layer.values) for layer in model.sparse_layers}
        self._whole = ParameterOptimizer({name: value for name, value in model.named_parameters() if id(value) not in atoms}, AtomRule())
        self._atoms = AtomOptimizer(model.sparse_layers, AtomRule(), sparsity.newborn)
        self.updater = TopologyUpdater(model.sparse_layers, self._atoms, sparsity, seed) if model.sparse_layers else None
        self._generator = torch.Generator().manual_seed(seed)
        self._steps = 0

    def epoch(self, train: Matrix, order: np.random.Generator) -> float:
        """Learn from every user once; return the mean loss."""
        losses = [
            self._step(torch.from_numpy(train.dense(rows))) * len(rows) for rows in _batches(order.permutation(len(train)), self._recipe)
        ]
        return sum(losses) / len(train)

    def _step(self, given: Tensor) -> float:
        beta = min(self._recipe.cap, self._steps / self._recipe.anneal_steps) if self._recipe.anneal_steps else self._recipe.cap
        logits, kl = self.model(given, self._generator)
        loss = (beta * kl - (log_softmax(logits, dim=1) * given).sum(dim=1)).mean()
        if not torch.isfinite(loss):
            raise FloatingPointError(f"loss must be finite, got {float(loss.detach())} at step {self._steps}")
        for parameter in self.model.parameters():
            parameter.grad = None
        if self.updater is not None:
            self.updater.before_backward()
        loss.backward()
        self._whole.step(self._recipe.lr)
        found = float(loss.detach())
        if self.updater is not None:
            self.updater.after_backward(1)  # the gradients are of the mean
            self._atoms.step(self._recipe.lr)
            self.updater.after_step(found, len(given))
        self._steps += 1
        return found


def rank_metrics(model: MultVae, split: Split, batch_size: int = 500) -> dict[str, float]:
    """Return the mean over held-out users of Recall@20, Recall@50 and NDCG@100: section 4.2 of the paper, without what was given."""
    found: dict[str, list[FloatArray]] = {name: [] for name in _LISTS}
    with torch.no_grad():
        for start in range(0, len(split.given), batch_size):
            rows = np.arange(start, min(start + batch_size, len(split.given)))
            given = torch.from_numpy(split.given.dense(rows))
            scores = model(given, None)[0].masked_fill_(given > 0, -torch.inf).numpy()
            for name, values in list_metrics(scores, split.wanted.dense(rows)).items():
                found[name].append(values)
    return {name: float(np.concatenate(parts).mean()) for name, parts in found.items()}


def list_metrics(scores: FloatArray, wanted: FloatArray) -> dict[str, FloatArray]:
    """Return for each user Recall@k = hits / min(k, wanted) and NDCG@k by binary relevance: (B, I) scores and wants -> (B,) each."""
    num_wanted = wanted.sum(axis=1)
    longest = min(max(_LISTS.values()), scores.shape[1])
    best = np.argsort(-scores, axis=1, kind="stable")[:, :longest]
    hits = np.take_along_axis(wanted, best, axis=1)  # (B, longest)
    gains = 1 / np.log2(np.arange(2, longest + 2))
    ideal = np.r_[0, np.cumsum(gains)]
    metrics = {}
    for name, k in _LISTS.items():
        most = np.minimum(min(k, longest), num_wanted).astype(np.int64)
        if name.startswith("Recall"):
            metrics[name] = hits[:, :k].sum(axis=1) / np.maximum(1, most)
        else:
            metrics[name] = (hits[:, :k] * gains[:k]).sum(axis=1) / np.maximum(ideal[most], gains[0])
    return metrics


def _batches(order: np.ndarray, recipe: Recipe) -> Iterator[np.ndarray]:
    for start in range(0, len(order), recipe.batch_size):
        yield order[start : start + recipe.batch_size]


def _sparsified(dense: Sequence[nn.Linear], config: SparsityConfig, seed: int) -> Iterable[nn.Module]:
    """Return the layers as the settings have them before the first step."""
    if config.preset == "dense":
        return dense
    for layer in dense:
        if layer.in_features > MAX_INPUTS:
            _logger.warning("a layer of %d inputs stays dense: the core takes up to %d", layer.in_features, MAX_INPUTS)
    chosen = [layer for layer in dense if layer.in_features <= MAX_INPUTS]
    shapes = [(layer.out_features, layer.in_features) for layer in chosen]
    targets = atom_targets(config, shapes, density_at(config, 0))
    grids = [SparseLinear(layer.in_features, layer.out_features, config.atom).grid for layer in chosen]
    masks = iter(first_masks(config, grids, targets, np.random.default_rng(seed)))
    return [SparseLinear.of(layer, next(masks), config.atom) if layer.in_features <= MAX_INPUTS else layer for layer in dense]
