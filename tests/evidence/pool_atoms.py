"""A table whose rows hold only some of their atoms: a masked prototype that stands in for the project's bags.

An atom is a run of weights of one row, 8 of them unless the rule says otherwise, with their optimizer state.

Letters: N rows, D a row's dim, A its atoms, n fids of a batch, u different rows among them, F features, B examples of a batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from passes import ENTRY_BYTES, FID_BYTES
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

from monolith_py.data.columns import SparseColumn
from monolith_py.table import Adagrad, EmbeddingBags

POINTER_BYTES = 4


@dataclass(frozen=True)
class PoolRule:
    """Which atoms live, and how that changes; the budget is `share` of all atoms of the stream, of all features together.

    "static" draws the live ones once. "swap" gives a new row all its atoms while the budget lasts. From then on, every `every` steps, up to
    `swap` of the live atoms die, those of the least `keep` score that are older than `grace` steps, and as many grow: of the dead atoms of
    rows seen since the last swap, those of the greatest gradient summed since then (dsl, with atoms of embeddings). With `floor` a row's
    first atom always lives: that of a new row takes the place of the least other one.
    """

    share: float
    kind: Literal["static", "swap"] = "swap"
    atom: int = 8
    keep: Literal["magnitude", "gradient"] = "magnitude"
    every: int = 5
    swap: float = 0.02
    grace: int = 50
    floor: bool = False


class AtomBags:
    """Look-up and pooling of all features from one array, whose dead atoms are zero; backward updates the rows.

    Start values and Adagrad are those of `bags`, which must be new: with all atoms live it learns what they do.
    """

    def __init__(self, bags: EmbeddingBags, columns: Mapping[str, SparseColumn], rule: PoolRule, adagrad: Adagrad, seed: int) -> None:
        self._rule, self._adagrad = rule, adagrad
        self._names = [feature.name for feature in bags.features]
        self._means = np.array([feature.pooling == "mean" for feature in bags.features])
        self._fids = [np.unique(columns[name].fids) for name in self._names]
        self._first_rows = np.cumsum([0, *map(len, self._fids)])[:-1]
        tables = [bags.tables[name] for name in self._names]
        starts = [table.gather(table.find_or_insert(fids, 0)) for table, fids in zip(tables, self._fids, strict=True)]
        self._starts = torch.from_numpy(np.concatenate(starts)).unflatten(1, (-1, rule.atom))  # (N, A, D / A)
        num_atoms = self._starts.shape[0] * self._starts.shape[1]
        self._capacity, self._num_live = round(rule.share * num_atoms), 0
        self._live = torch.zeros(self._starts.shape[:2], dtype=torch.bool)
        self._born = torch.zeros_like(self._live, dtype=torch.int32)  # the step
        self._seen = torch.zeros(len(self._live), dtype=torch.bool)
        self._weights, self._growth = torch.zeros_like(self._starts), torch.zeros_like(self._starts)
        self._squares = torch.full_like(self._starts, adagrad.initial_accumulator)
        drawn = torch.randperm(num_atoms, generator=torch.Generator().manual_seed(seed))[: self._capacity]
        self._drawn = torch.zeros(num_atoms, dtype=torch.bool).index_fill_(0, drawn, True).view_as(self._live)
        self.now_s = self._step = self.num_swapped = 0

    def __call__(self, kjt: KeyedJaggedTensor) -> KeyedTensor:
        """Return the pooled rows of all features, (B, F * D)."""
        lengths = kjt.lengths().numpy()
        num_fids = lengths.reshape(len(self._names), -1).sum(axis=1)  # (F,)
        parts = np.split(kjt.values().numpy(), np.cumsum(num_fids)[:-1])
        found = np.concatenate([np.searchsorted(known, part) for known, part in zip(self._fids, parts, strict=True)])
        rows = torch.from_numpy(found + np.repeat(self._first_rows, num_fids))  # (n,)
        places = torch.from_numpy(np.repeat(np.arange(len(lengths)), lengths))  # (n,) bags, 0 to F * B - 1
        divisors = np.where(np.repeat(self._means, kjt.stride()), np.maximum(lengths, 1), 1).astype(np.float32)
        self._see(rows.unique())
        ask = torch.zeros(0, requires_grad=True)
        scales = 1 / torch.from_numpy(divisors)[places].unsqueeze(1)  # (n, 1)
        pooled: Tensor = _Pooled.apply(ask, self, rows, places, scales, len(lengths))
        dim = pooled.shape[1]
        flat = pooled.view(len(self._names), -1, dim).transpose(0, 1).flatten(1)  # (B, F * D)
        return KeyedTensor(self._names, [dim] * len(self._names), flat, key_dim=1)

    def evict(self, now_s: int) -> None:
        """Do nothing: a row goes when its last atom does."""

    @property
    def num_rows(self) -> int:
        """Return how many rows have a live atom."""
        return int(self._live.any(dim=1).sum())

    def used_bytes(self, pointers: bool) -> float:
        """Return what such a table needs at least, counted as a budget counts: rows without a live atom cost nothing.

        A row with one has a fid, an entry of the id map, and a mask of its atoms, or a pointer to each of them.
        """
        num_atoms, atom = self._starts.shape[1:]
        per_row = 0 if num_atoms == 1 else POINTER_BYTES * num_atoms if pointers else -(-num_atoms // 8)
        return self.num_rows * (FID_BYTES + ENTRY_BYTES + per_row) + self._num_live * 2 * 4 * atom

    def pool(self, rows: Tensor, places: Tensor, scales: Tensor, num_bags: int) -> Tensor:
        """Return the bags one below the other, (F * B, D)."""
        return torch.zeros(num_bags, self._weights[0].numel()).index_add_(0, places, self._weights[rows].flatten(1) * scales)

    def learn(self, rows: Tensor, gradients: Tensor) -> None:
        """Take Adagrad's step on live atoms from the gradient of each fid, (n, D), then swap if it is due."""
        touched, places = rows.unique(return_inverse=True)
        summed = torch.zeros(len(touched), gradients.shape[1]).index_add_(0, places, gradients).view(-1, *self._starts.shape[1:])
        self._growth[touched] += summed
        summed *= self._live[touched].unsqueeze(2)
        squares = self._squares[touched] + summed.square()
        self._squares[touched] = squares
        self._weights[touched] -= self._adagrad.rate(0) * summed / (squares.sqrt() + self._adagrad.eps)
        self._step += 1
        if self._rule.kind == "swap" and self._step % self._rule.every == 0:
            if self._num_live == self._capacity < self._live.numel():
                self._swap()
            self._growth.zero_()

    def _see(self, rows: Tensor) -> None:
        """Give those of these rows that are new the atoms that are theirs from birth."""
        new = rows[~self._seen[rows]]
        self._seen[new] = True
        given = self._drawn[new] if self._rule.kind == "static" else torch.ones_like(self._drawn[new])
        wanted = new.unsqueeze(1) * self._live.shape[1] + torch.arange(self._live.shape[1])  # numbers of atoms
        atoms = torch.cat([column[there] for column, there in zip(wanted.T, given.T, strict=True)])  # first atoms first
        lacking = len(new) - (self._capacity - self._num_live)
        if self._rule.floor and lacking > 0:
            self._kill(self._least(lacking))
        self._revive(atoms[: self._capacity - self._num_live])

    def _swap(self) -> None:
        wanted = self._growth.square().sum(dim=2).masked_fill_(self._live, 0).flatten()
        dying = self._least(int(self._rule.swap * self._num_live), self._rule.grace)[: int(wanted.count_nonzero())]
        self._kill(dying)
        self._revive(wanted.topk(len(dying), sorted=False).indices)
        self.num_swapped += len(dying)

    def _least(self, num: int, grace: int = 0) -> Tensor:
        """Return the live atoms of the least keep score, in its order: `num` of those older than `grace` steps, or all there are."""
        free = self._live & (self._born <= self._step - grace)
        if self._rule.floor:
            free[:, 0] = False
        atoms = free.flatten().nonzero().squeeze(1)
        values = self._weights if self._rule.keep == "magnitude" else self._squares.sqrt()
        scores = values.flatten(0, 1)[atoms].square().sum(dim=1)
        return atoms[scores.topk(min(num, len(atoms)), largest=False).indices]

    def _kill(self, atoms: Tensor) -> None:
        self._live.view(-1)[atoms] = False
        self._weights.flatten(0, 1)[atoms] = 0
        self._num_live -= len(atoms)

    def _revive(self, atoms: Tensor) -> None:
        self._live.view(-1)[atoms] = True
        self._born.view(-1)[atoms] = self._step
        self._weights.flatten(0, 1)[atoms] = self._starts.flatten(0, 1)[atoms]
        self._squares.flatten(0, 1)[atoms] = self._adagrad.initial_accumulator
        self._num_live += len(atoms)


class _Pooled(torch.autograd.Function):
    """Pooling whose backward updates the rows, as that of the project's bags."""

    @staticmethod
    def forward(ctx: Any, ask: Tensor, bags: AtomBags, rows: Tensor, places: Tensor, scales: Tensor, num_bags: int) -> Tensor:
        ctx.bags, ctx.rows, ctx.places, ctx.scales = bags, rows, places, scales
        return bags.pool(rows, places, scales, num_bags)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, ...]:
        ctx.bags.learn(ctx.rows, gradients[0][ctx.places] * ctx.scales)
        return None, None, None, None, None, None
