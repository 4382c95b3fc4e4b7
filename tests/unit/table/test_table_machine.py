"""State machine: the embedding table equals a dict after any sequence of calls."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from monolith_py import _core
from monolith_py.table import NO_ROW, Adagrad, EmbeddingTable, EncodedDelta, MemoryBudget

DIM, TTL_S, SEED, SCALE = 4, 10, 5, 0.25
RULE = Adagrad(lr=0.5, eps=1e-6, initial_accumulator=0.5)
EDGES = [-(2**63), 2**63 - 1, 0, -1, 1, 2, 3, 2**32, -(2**32)]
FIDS = st.lists(st.one_of(st.sampled_from(EDGES), st.integers(-20, 20), st.integers(-(2**63), 2**63 - 1)), max_size=12)
CONSUMERS = st.sampled_from(["replicas", "archive"])
# So many that the id map is split and that threads share the work; all of them are always seen together, and never updated.
CROWD = np.arange(21_000) + 10**9
SLOT_BYTES = 16 / 0.65  # what an entry of the id map counts for in a budget
ROW_BYTES = 2 * DIM * 4 + 8 + SLOT_BYTES


def start_weights(fids: list[int] | np.ndarray) -> np.ndarray:
    """Return the start values of rows, from another table: they depend on seed and fid only."""
    table = EmbeddingTable(DIM, RULE, init_scale=SCALE, seed=SEED)
    return table.gather(table.find_or_insert(fids, 0))


CROWD_WEIGHTS = start_weights(CROWD)


@dataclass
class Entry:
    """A fid that was seen: counted, and with weights once it is admitted."""

    seen_s: int
    count: int = 0
    weights: np.ndarray | None = None
    accumulator: np.ndarray = field(default_factory=lambda: np.full(DIM, RULE.initial_accumulator))


@dataclass
class Consumer:
    """`fresh` changed since the last drain; `in_flight` was in it and is not acknowledged."""

    fresh: set[int]
    in_flight: set[int] = field(default_factory=set)
    ticket: int | None = None


class TableMachine(RuleBasedStateMachine):
    @initialize(
        admit_after=st.sampled_from([1, 1, 2, 3]),
        budget=st.sampled_from([None, None, MemoryBudget(40 * int(ROW_BYTES)), MemoryBudget(60 * int(ROW_BYTES), "lfu")]),
        num_threads=st.integers(1, 3),
    )
    def make(self, admit_after: int, budget: MemoryBudget | None, num_threads: int) -> None:
        _core.set_num_threads(num_threads)
        self.directory = Path(tempfile.mkdtemp())
        self.admit_after, self.budget = admit_after, budget
        self.table = EmbeddingTable(DIM, RULE, init_scale=SCALE, admit_after=admit_after, ttl_s=TTL_S, budget=budget, seed=SEED)
        self.entries: dict[int, Entry] = {}
        self.crowd: Entry | None = None
        self.snapshots: list[Path] = []  # a base and increments, after which changes are tracked
        self.consumers: dict[str, Consumer] = {}
        self.known = set(EDGES)
        self.now_s = 1_000
        self.filtered = self.admitted = self.evicted = 0

    def teardown(self) -> None:
        _core.set_num_threads(1)
        if hasattr(self, "directory"):
            shutil.rmtree(self.directory)

    def live(self) -> list[int]:
        return sorted(fid for fid, entry in self.entries.items() if entry.weights is not None)

    def crowd_is_live(self) -> bool:
        return self.crowd is not None and self.crowd.count >= self.admit_after

    def changed(self, *fids: int) -> None:
        for consumer in self.consumers.values():
            consumer.fresh.update(fids)

    def used_bytes(self) -> float:
        num_rows = len(self.live())
        return num_rows * ROW_BYTES + (len(self.entries) - num_rows) * SLOT_BYTES

    def make_room(self, fids: list[int], now_s: int) -> None:
        """Let go of what the table has let go, before it looked up `fids`, and check that it had to and was allowed to."""
        entries = self.table.entries()
        counts = dict(zip(entries.fids.tolist(), entries.counts.tolist(), strict=True))
        gone = [fid for fid, entry in self.entries.items() if counts.get(fid, 0) != entry.count + fids.count(fid)]
        assert self.budget is not None
        assert not gone or self.used_bytes() > self.budget.bytes
        goes_last = any(self.entries[fid].seen_s >= now_s for fid in gone)
        for fid in gone:
            if self.entries.pop(fid).weights is not None:
                self.evicted += 1
                self.changed(fid)
        assert not goes_last or not any(entry.seen_s < now_s for entry in self.entries.values())
        assert self.used_bytes() <= self.budget.bytes

    def see(self, fids: list[int], now_s: int) -> None:
        self.known.update(fids)
        rows = self.table.find_or_insert(np.array(fids, np.int64), now_s)
        if self.budget:
            self.make_room(fids, now_s)
        for fid in fids:
            entry = self.entries.setdefault(fid, Entry(now_s))
            entry.seen_s = max(entry.seen_s, now_s)
            entry.count += 1
            if entry.weights is None and entry.count >= self.admit_after:
                entry.weights = start_weights([fid])[0].astype(np.float64)
                self.admitted += 1
                self.changed(fid)
        live = set(self.live())
        assert [row != NO_ROW for row in rows] == [fid in live for fid in fids]
        assert (rows == self.table.find(fids)).all()
        self.filtered += sum(fid not in live for fid in fids)

    @rule(fids=FIDS, late_s=st.sampled_from([0, 0, 0, 3, 15]))
    def find_or_insert(self, fids: list[int], late_s: int) -> None:
        self.see(fids, self.now_s - late_s)

    @rule(first=st.integers(-1_000, 1_000), num=st.integers(30, 90))
    def find_or_insert_many(self, first: int, num: int) -> None:
        self.see(list(range(first, first + num)), self.now_s)

    @precondition(lambda self: not self.budget)
    @rule(times=st.integers(1, 2))
    def a_crowd_comes(self, times: int) -> None:
        was_live = self.crowd_is_live()
        rows = self.table.find_or_insert(np.tile(CROWD, times), self.now_s)
        entry = self.crowd = self.crowd or Entry(self.now_s)
        entry.seen_s = max(entry.seen_s, self.now_s)
        entry.count += times
        if not was_live and self.crowd_is_live():
            self.admitted += len(CROWD)
            self.changed(*CROWD.tolist())
        assert ((rows != NO_ROW) == self.crowd_is_live()).all()
        assert (rows == np.tile(self.table.find(CROWD), times)).all()
        self.filtered += 0 if self.crowd_is_live() else len(rows)

    @rule(fids=FIDS)
    def find_inserts_nothing_and_counts_nothing(self, fids: list[int]) -> None:
        live = set(self.live())
        rows = self.table.find(np.array(fids, np.int64))
        assert [row != NO_ROW for row in rows] == [fid in live for fid in fids]
        assert len({*rows.tolist()} - {NO_ROW}) == len({*fids} & live)

    @precondition(lambda self: self.live())
    @rule(data=st.data())
    def update(self, data: st.DataObject) -> None:
        absent = [fid for fid in EDGES if fid not in self.live()]
        fids = data.draw(st.lists(st.sampled_from(self.live() + absent), max_size=10))
        steps = data.draw(st.lists(st.integers(-3, 3), min_size=len(fids), max_size=len(fids)))
        gradients = np.outer(steps, np.arange(1, DIM + 1)).astype(np.float32).reshape(len(fids), DIM)
        self.table.update(self.table.find(np.array(fids, np.int64)), gradients)
        sums: dict[int, np.ndarray] = {}
        for fid, gradient in zip(fids, gradients.astype(np.float64), strict=True):
            sums[fid] = sums.get(fid, 0) + gradient
        for fid, gradient in sums.items():
            entry = self.entries.get(fid)
            if entry is not None and entry.weights is not None:
                entry.accumulator += gradient**2
                entry.weights -= RULE.lr * gradient / (np.sqrt(entry.accumulator) + RULE.eps)
                self.changed(fid)

    @rule(seconds=st.sampled_from([0, 1, 4, 5, 6, 11, 3_000]))
    def time_moves_on(self, seconds: int) -> None:
        self.now_s += seconds

    @rule(after_s=st.sampled_from([0, 6, TTL_S + 1]))
    def evict(self, after_s: int) -> None:
        self.now_s += after_s
        expired = sorted(fid for fid, entry in self.entries.items() if entry.seen_s < self.now_s - TTL_S)
        rows = [fid for fid in expired if self.entries.pop(fid).weights is not None]
        if self.crowd and self.crowd.seen_s < self.now_s - TTL_S:
            rows = sorted(rows + (CROWD.tolist() if self.crowd_is_live() else []))
            self.crowd = None
        assert self.table.evict(self.now_s).tolist() == rows
        self.evicted += len(rows)
        self.changed(*rows)

    @rule(name=CONSUMERS, encoded=st.booleans())
    def drain(self, name: str, encoded: bool) -> None:
        live = set(self.live()) | set(CROWD.tolist() if self.crowd_is_live() else [])
        consumer = self.consumers.setdefault(name, Consumer(set(live)))
        consumer.in_flight |= consumer.fresh
        consumer.fresh = set()
        delta = self.table.drain_encoded(name) if encoded else self.table.drain(name)
        assert sorted(delta.fids.tolist()) == sorted(consumer.in_flight & live)
        assert sorted(delta.evicted.tolist()) == sorted(consumer.in_flight - live)
        weights = self.table.gather(self.table.find(delta.fids))
        if isinstance(delta, EncodedDelta):
            np.testing.assert_array_equal(delta.rows.view("<f2"), weights.astype("<f2"))
            fids, weights = self.table.export_rows()
            assert delta.digest == _core.digest_rows(fids, weights.astype("<f2").view(np.uint8), "fp16")
        else:
            np.testing.assert_array_equal(delta.weights, weights)
        consumer.ticket = delta.ticket

    @rule(name=CONSUMERS, fids=FIDS)
    def touch(self, name: str, fids: list[int]) -> None:
        live = set(self.live()) | set(CROWD.tolist() if self.crowd_is_live() else [])
        self.consumers.setdefault(name, Consumer(set(live))).fresh |= set(fids)
        self.table.touch(name, fids)

    @precondition(lambda self: any(consumer.ticket is not None for consumer in self.consumers.values()))
    @rule(data=st.data())
    def ack(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(name for name, one in self.consumers.items() if one.ticket is not None)))
        consumer = self.consumers[name]
        assert consumer.ticket is not None
        self.table.ack(name, consumer.ticket)
        for ticket in (consumer.ticket, consumer.ticket + 1):
            with pytest.raises(ValueError, match="ticket"):
                self.table.ack(name, ticket)
        consumer.in_flight, consumer.ticket = set(), None

    @rule()
    def save_and_restore(self) -> None:
        path = self.directory / "saved.table"
        self.table.save(path)
        self.restore(path)

    @rule(base=st.booleans(), fids=FIDS, go_on_from_it=st.booleans())
    def save_while_others_go_on(self, base: bool, fids: list[int], go_on_from_it: bool) -> None:
        """A base, or an increment on the last one; fids are seen between its copies."""
        increment = bool(self.snapshots) and not base
        paths = [*(self.snapshots if increment else []), self.directory / f"{self.now_s} {len(self.snapshots)} {increment}"]
        saving = self.table.start_saving(paths[-1], increment=increment)
        for _ in range(3):
            saving.copy(max_rows=2)
            self.see(fids, self.now_s)
        saving.finish()
        saving.commit(track=True)
        self.snapshots = paths
        if go_on_from_it:
            self.restore(*paths)

    def restore(self, *paths: Path) -> None:
        self.table = EmbeddingTable.restore(*paths)
        self.snapshots = []
        for name, consumer in self.consumers.items():
            if consumer.ticket is not None:  # tickets are of one life of the table
                with pytest.raises(ValueError, match="ticket"):
                    self.table.ack(name, consumer.ticket)
            consumer.in_flight, consumer.fresh, consumer.ticket = consumer.in_flight | consumer.fresh, set(), None

    @invariant()
    def both_hold_the_same_rows(self) -> None:
        if not hasattr(self, "table"):
            return
        live = self.live()
        fids, weights = self.table.export_rows()
        of_crowd = np.isin(fids, CROWD, assume_unique=True)
        if self.crowd_is_live():
            np.testing.assert_array_equal(fids[of_crowd], CROWD)
            np.testing.assert_array_equal(weights[of_crowd], CROWD_WEIGHTS)
        fids, weights = fids[~of_crowd], weights[~of_crowd]
        assert fids.tolist() == live
        expected = np.array([self.entries[fid].weights for fid in live]).reshape(len(live), DIM)
        np.testing.assert_allclose(weights, expected, rtol=1e-5, atol=1e-6)
        known = np.array(sorted(self.known), np.int64)
        rows = self.table.find(known)
        assert known[rows != NO_ROW].tolist() == live
        np.testing.assert_array_equal(self.table.gather(rows)[rows != NO_ROW], weights)
        assert not self.table.gather(rows)[rows == NO_ROW].any()

    @invariant()
    def both_count_the_same(self) -> None:
        if not hasattr(self, "table"):
            return
        crowd_rows = len(CROWD) if self.crowd_is_live() else 0
        stats, num_rows = self.table.stats(), len(self.live()) + crowd_rows
        assert len(self.table) == stats.rows == num_rows
        assert stats.candidates == len(self.entries) + (len(CROWD) if self.crowd else 0) - num_rows
        assert (stats.admitted, stats.filtered, stats.evicted) == (self.admitted, self.filtered, self.evicted)
        assert stats.id_map_capacity >= stats.rows + stats.candidates


TestTable = TableMachine.TestCase
TestTable.settings = settings(max_examples=100, stateful_step_count=40)
