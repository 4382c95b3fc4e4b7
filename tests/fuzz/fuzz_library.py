"""Random operations of EmbeddingBags against a plain dictionary of rows: batches, steps, modes, time, eviction, save and restore.

    python tests/fuzz/fuzz_library.py SECONDS [SEED]

The model holds weights and Adagrad state in float64. A gradient reaches the row of its fid, if there is one at that time. The first
difference ends the run with the seed and the number of the operation.
"""

from __future__ import annotations

import sys
import tempfile
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from monolith_py.errors import CheckpointError, PoisonedBatch
from monolith_py.table import Adagrad, EmbeddingBags, Feature

DIM, LR, TTL_S, EPS = 4, 0.1, 50, 1e-8
FIDS = np.array([-(2**63), -2, -1, 0, 1, 2, 3, 2**32, 2**63 - 1, *range(100, 160)], np.int64)
NAMES = ("sum", "mean", "first", "shared")


@dataclass
class Row:
    """A row of the model: float64 (D,)."""

    weights: np.ndarray
    state: np.ndarray
    seen_s: int


@dataclass
class Waiting:
    """A forward whose backward may follow: its graph, and the positions that learn."""

    pooled: Tensor
    bags: dict[str, list[list[int]]]
    weights: np.ndarray | None


@dataclass
class World:
    """Bags and their model."""

    generator: np.random.Generator
    folder: Path
    bags: EmbeddingBags = field(init=False)
    rows: dict[tuple[str, int], Row] = field(default_factory=dict)
    waiting: list[Waiting] = field(default_factory=list)
    now_s: int = 1_700_000_000
    batch_s: int = 1_700_000_000  # of the last batch in training
    was_wrong: bool = False  # its time
    clocked: set[str] = field(default_factory=set)  # tables whose clock is set: the first batch of each sets it
    saved: tuple[dict[tuple[str, int], Row], int] | None = None

    def __post_init__(self) -> None:
        self.bags = make_bags()

    def step(self) -> None:
        """Run one random operation."""
        operations = (*(self.look,) * 6, *(self.backward,) * 5, self.evict, self.tick, self.modes, self.poison, self.save, self.restore)
        operations[self.generator.integers(len(operations))]()

    def look(self) -> None:
        """Run forward on a random batch; in training it inserts."""
        num_rows = int(self.generator.integers(0, 4))
        bags = {name: [self._bag() for _ in range(num_rows)] for name in NAMES}
        values = [fid for name in NAMES for bag in bags[name] for fid in bag]
        weights = self.generator.normal(size=len(values)).astype(np.float32) if self.generator.random() < 0.3 else None
        kjt = KeyedJaggedTensor.from_lengths_sync(
            keys=list(NAMES),
            values=torch.tensor(values, dtype=torch.int64),
            lengths=torch.tensor([len(bag) for name in NAMES for bag in bags[name]], dtype=torch.int64),
            weights=None if weights is None else torch.from_numpy(weights),
        )
        late_s = int(self.generator.choice([0, 0, 0, 7, 30, 10**9]))
        if late_s > 30 and (self.was_wrong or len(self.clocked) < len(self.bags.tables) or self.generator.random() < 0.7):
            late_s = 0
        wrong = late_s > TTL_S  # a time that the table must not believe; after three in a row it would
        pooled = self.bags(kjt, now_s=self.now_s - late_s).values()
        learns = self.bags.training and self.bags.anchor.requires_grad
        assert pooled.requires_grad == learns
        if learns:
            self.was_wrong, self.batch_s = wrong, self.batch_s if wrong else self.now_s - late_s
            for name in NAMES:
                self.clocked |= {table_of(name) for bag in bags[name] if bag}
                for fid in (fid for bag in bags[name] for fid in bag):
                    self._see(table_of(name), fid, None if wrong else self.now_s - late_s)
        np.testing.assert_allclose(pooled.detach().numpy(), self._pooled(bags, weights, num_rows), rtol=1e-3, atol=1e-3)
        if learns and num_rows:
            self.waiting = [*self.waiting[-3:], Waiting(pooled, bags, weights)]

    def backward(self) -> None:
        """Run backward of one or two earlier forwards together: one step of the summed gradients."""
        if not self.waiting:
            return
        some = [self.waiting.pop() for _ in range(min(len(self.waiting), int(self.generator.integers(1, 3))))]
        gradients = [self.generator.normal(size=tuple(one.pooled.shape)).astype(np.float32) for one in some]
        torch.autograd.backward([one.pooled for one in some], [torch.from_numpy(gradient) for gradient in gradients])
        sums: dict[tuple[str, int], np.ndarray] = {}
        for one, gradient in zip(some, gradients, strict=True):
            for key, part in self._parts(one, gradient):
                sums[key] = sums.get(key, 0) + part
        for key, total in sums.items():
            row = self.rows[key]
            row.state += total**2
            row.weights -= LR * total / (np.sqrt(row.state) + EPS)
        assert self.bags.rows_touched == len(sums), (self.bags.rows_touched, len(sums))

    def evict(self) -> None:
        """Evict what has expired."""
        expired = {key for key, row in self.rows.items() if row.seen_s < self.now_s - TTL_S}
        evicted = {(name, int(fid)) for name, fids in self.bags.evict(self.now_s).items() for fid in fids}
        assert evicted == expired, (evicted ^ expired, self.now_s)
        for key in expired:
            del self.rows[key]

    def tick(self) -> None:
        """Let time pass."""
        step_s = int(self.generator.choice([1, 10, TTL_S + 1]))
        if self.now_s + step_s - self.batch_s < 4_000:  # a longer gap is not believed at once
            self.now_s += step_s

    def modes(self) -> None:
        """Switch between training, eval and frozen."""
        self.bags.train(bool(self.generator.random() < 0.7))
        self.bags.requires_grad_(bool(self.generator.random() < 0.8))

    def poison(self) -> None:
        """A gradient that is not finite changes nothing."""
        if not self.waiting or not self.waiting[-1].pooled.numel():
            return
        one = self.waiting.pop()
        gradient = torch.ones_like(one.pooled)
        gradient[-1, -1] = [np.nan, np.inf, 2.0**48][int(self.generator.integers(3))]
        try:
            one.pooled.backward(gradient)
        except PoisonedBatch:
            return
        raise AssertionError("a poisoned gradient was taken")

    def save(self) -> None:
        """Save the tables and keep what they held."""
        if self.generator.random() < 0.8:
            return
        self.bags.save(self.folder)
        copies = {key: Row(row.weights.copy(), row.state.copy(), row.seen_s) for key, row in self.rows.items()}
        self.saved = (copies, self.now_s)

    def restore(self) -> None:
        """Restore the last save, from files or through a state dict; forwards before it are gone."""
        if self.saved is None or self.generator.random() < 0.6:
            return
        bags, self.waiting = make_bags(), []
        bags.restore(self.folder)
        try:
            bags.restore(self.folder)
            assert not self.saved[0], "a table with rows was restored"
        except CheckpointError:
            pass
        if self.generator.random() < 0.5:
            twin = make_bags()
            twin.load_state_dict(bags.state_dict())
            bags = twin
        rows, self.now_s = self.saved
        self.batch_s, self.was_wrong = self.now_s, False
        self.bags, self.clocked = bags, {table for table, _ in rows}
        self.rows = {key: Row(row.weights.copy(), row.state.copy(), row.seen_s) for key, row in rows.items()}

    def compare(self) -> None:
        """Compare every row, its state and the number of rows."""
        for name, table in self.bags.tables.items():
            expected = {fid: row for (of, fid), row in self.rows.items() if of == name}
            fids, weights = table.export_rows()
            assert fids.tolist() == sorted(expected), name
            if len(fids):
                np.testing.assert_allclose(weights, [expected[fid].weights for fid in fids.tolist()], rtol=1e-3, atol=1e-3)
                np.testing.assert_allclose(table.state(table.find(fids)), [expected[fid].state for fid in fids.tolist()], rtol=1e-3)
            stats = table.stats()
            assert (stats.rows, stats.candidates) == (len(expected), 0)

    def _bag(self) -> list[int]:
        return self.generator.choice(FIDS, int(self.generator.choice([0, 1, 1, 2, 3, 6]))).tolist()

    def _see(self, table: str, fid: int, now_s: int | None) -> None:
        """Count a sighting; None: at a time before all others."""
        row = self.rows.get((table, fid))
        if row is not None:
            row.seen_s = max(row.seen_s, now_s if now_s is not None else row.seen_s)
            return
        found = self.bags.tables[table]
        weights = found.lookup([fid])[0].astype(np.float64)
        rows = found.entries()
        seen_s = int(rows.seen_s[rows.fids == fid][0])
        assert now_s is None or seen_s == now_s or seen_s > now_s
        self.rows[table, fid] = Row(weights, np.full(DIM, 0.01), seen_s if now_s is None else now_s)

    def _pooled(self, bags: dict[str, list[list[int]]], weights: np.ndarray | None, num_rows: int) -> np.ndarray:
        out, at = np.zeros((num_rows, 5 * DIM)), 0
        for column, name in zip((0, DIM, 2 * DIM, 4 * DIM), NAMES, strict=True):
            for b, bag in enumerate(bags[name]):
                for place, fid in enumerate(bag):
                    row = self.rows.get((table_of(name), fid))
                    factor = (1.0 if weights is None else float(weights[at])) / (len(bag) if name == "mean" else 1)
                    at += 1
                    if row is None or (name == "first" and place >= 2):
                        continue
                    begin = column + (place * DIM if name == "first" else 0)
                    out[b, begin : begin + DIM] += factor * row.weights
        return out

    def _parts(self, one: Waiting, gradient: np.ndarray):
        at = 0
        for column, name in zip((0, DIM, 2 * DIM, 4 * DIM), NAMES, strict=True):
            for b, bag in enumerate(one.bags[name]):
                for place, fid in enumerate(bag):
                    key = (table_of(name), fid)
                    factor = (1.0 if one.weights is None else float(one.weights[at])) / (len(bag) if name == "mean" else 1)
                    at += 1
                    row = self.rows.get(key)
                    if row is None or (name == "first" and place >= 2):
                        continue
                    begin = column + (place * DIM if name == "first" else 0)
                    yield key, factor * gradient[b, begin : begin + DIM].astype(np.float64)


def table_of(name: str) -> str:
    """Return the table of a feature."""
    return "sum" if name == "shared" else name


def make_bags() -> EmbeddingBags:
    """Return bags of all poolings, one with a shared table."""
    features = [
        Feature("sum", dim=DIM, ttl_s=TTL_S),
        Feature("mean", dim=DIM, pooling="mean", ttl_s=TTL_S),
        Feature("first", dim=DIM, pooling="first", length=2, ttl_s=TTL_S),
        Feature("shared", dim=DIM, table="sum"),
    ]
    return EmbeddingBags(features, Adagrad(lr=LR, initial_accumulator=0.01, eps=EPS), seed=7)


def run(seed: int, seconds: float, most: int) -> int:
    """Run up to `most` operations or `seconds`; return their number."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("error")
        world, end = World(np.random.default_rng(seed), Path(folder)), time.monotonic() + seconds
        for number in range(most):
            try:
                world.step()
                if number % 20 == 0:
                    world.compare()
            except Exception as error:
                raise AssertionError(f"seed {seed}, operation {number}: {error!r}") from error
            if time.monotonic() > end:
                return number + 1
    return most


def main(seconds: float, seed: int = 0) -> int:
    """Run worlds of 2,000 operations for `seconds`; return the number of operations."""
    total, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        total += run(seed, end - time.monotonic(), 2_000)
        seed += 1
    print(f"library: {total} operations, no difference")
    return total


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
