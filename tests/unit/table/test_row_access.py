"""Rows put into a table, taken out and read by fid: equal to a plain dict, whole after an error, told to every consumer."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from monolith_py.table import (
    NO_ROW,
    Adagrad,
    Adam,
    Admission,
    EmbeddingTable,
    MemoryBudget,
    Optimizer,
    Sgd,
    TableRows,
    read_rows,
    write_rows,
)

DIM = 4
FIDS = st.lists(st.one_of(st.sampled_from([-(2**63), 2**63 - 1, 0, -1]), st.integers(-15, 15)), max_size=10)
RULE = Adagrad(lr=0.5, initial_accumulator=0.25)


def weights_of(num: int, first: float = 1.0) -> np.ndarray:
    return np.arange(num * DIM, dtype=np.float32).reshape(num, DIM) + np.float32(first)


class RowsMachine(RuleBasedStateMachine):
    """A table beside a dict from fid to (weights, state), and a replica that applies each drain."""

    @initialize(admit_after=st.sampled_from([1, 3]))
    def make(self, admit_after: int) -> None:
        self.table = EmbeddingTable(DIM, RULE, admit_after=admit_after, init_scale=0.0)
        self.admit_after = admit_after
        self.rows: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self.counts: dict[int, int] = {}
        self.replica: dict[int, np.ndarray] = {}
        self.folder = tempfile.TemporaryDirectory()
        self.snapshots: list[Path] = []
        self.value = 0.0

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.folder.cleanup()

    def fresh_state(self) -> np.ndarray:
        return np.full(DIM, RULE.initial_accumulator, np.float32)

    @rule(fids=FIDS)
    def find_or_insert(self, fids: list[int]) -> None:
        self.table.find_or_insert(np.array(fids, np.int64), 0)
        for fid in fids:
            self.counts[fid] = self.counts.get(fid, 0) + 1
        for fid in fids:
            if self.counts[fid] >= self.admit_after and fid not in self.rows:
                self.rows[fid] = np.zeros(DIM, np.float32), self.fresh_state()

    @rule(fids=FIDS, with_state=st.booleans())
    def assign(self, fids: list[int], with_state: bool) -> None:
        self.value += 100
        weights = weights_of(len(fids), self.value)
        state = weights + np.float32(0.5) if with_state else None
        self.table.assign(np.array(fids, np.int64), weights, now_s=0, state=state)
        for place, fid in enumerate(fids):
            kept = self.rows[fid][1] if fid in self.rows else self.fresh_state()
            self.rows[fid] = weights[place], kept if state is None else state[place]
            self.counts[fid] = self.counts.get(fid, 0) + 1

    @rule(fids=FIDS)
    def remove(self, fids: list[int]) -> None:
        removed = self.table.remove(np.array(fids, np.int64))
        assert removed.tolist() == sorted(set(fids) & set(self.rows))
        for fid in fids:
            self.rows.pop(fid, None)
            self.counts.pop(fid, None)

    @rule()
    def clear(self) -> None:
        self.table.clear()
        self.rows.clear()
        self.counts.clear()

    @rule()
    def drain(self) -> None:
        delta = self.table.drain("replicas")
        for fid in delta.evicted.tolist():
            self.replica.pop(fid, None)
        self.replica |= zip(delta.fids.tolist(), delta.weights, strict=True)
        self.table.ack("replicas", delta.ticket)
        assert sorted(self.replica) == sorted(self.rows)
        assert all((self.replica[fid] == weights).all() for fid, (weights, _) in self.rows.items())

    @rule()
    def save(self) -> None:
        path = Path(self.folder.name, str(len(self.snapshots)))
        saving = self.table.start_saving(path, increment=bool(self.snapshots))
        saving.finish()
        saving.commit(track=True)
        self.snapshots.append(path)
        restored = EmbeddingTable.restore(*self.snapshots)
        fids = restored.fids()
        assert fids.tolist() == sorted(self.rows)
        rows = restored.read(fids)
        assert all((rows.weights[at] == self.rows[fid][0]).all() for at, fid in enumerate(fids.tolist()))
        assert all((rows.state[at] == self.rows[fid][1]).all() for at, fid in enumerate(fids.tolist()))

    @invariant()
    def the_table_equals_the_dict(self) -> None:
        if not hasattr(self, "table"):
            return
        assert self.table.fids().tolist() == sorted(self.rows)
        stats = self.table.stats()
        assert (stats.rows, len(self.table)) == (len(self.rows), len(self.rows))
        assert stats.candidates == len(self.counts) - len(self.rows)
        wanted = [*self.rows, 10**12]
        rows = self.table.read(np.array(wanted, np.int64))
        assert rows.fids.tolist() == wanted[:-1]
        for at, (fid, (weights, state)) in enumerate(self.rows.items()):
            assert (rows.weights[at] == weights).all() and (rows.state[at] == state).all()
            assert rows.counts[at] == self.counts[fid]


TestRows = RowsMachine.TestCase
TestRows.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)


@pytest.mark.parametrize("admission", [Admission("count"), Admission("sketch"), Admission("proportional"), Admission("geometric")])
def test_an_assigned_fid_has_its_row_whatever_the_admission_says(admission: Admission) -> None:
    table = EmbeddingTable(DIM, Sgd(), admit_after=1000, admission=admission)
    table.find_or_insert(np.array([1, 2]), 0)
    table.assign([2, 3], weights_of(2), now_s=0)
    assert table.fids().tolist() == [2, 3]
    assert (table.find_or_insert(np.array([1, 2, 3]), 0) != NO_ROW).tolist() == [False, True, True]
    assert (table.lookup([3, 2]) == weights_of(2)[::-1]).all()


def test_enough_rows_to_split_the_map_are_assigned_and_removed() -> None:
    table, fids = EmbeddingTable(DIM, Sgd()), np.arange(40_000)
    table.assign(fids, weights_of(len(fids)), now_s=0)
    assert (table.lookup(fids) == weights_of(len(fids))).all()
    assert (table.remove(fids[::2]) == fids[::2]).all()
    assert (table.fids() == fids[1::2]).all()
    table.assign(fids, weights_of(len(fids), 7), now_s=0)
    assert (table.lookup(fids) == weights_of(len(fids), 7)).all()


def test_assigned_rows_learn_with_the_state_given() -> None:
    table = EmbeddingTable(DIM, RULE)
    table.assign([5], np.ones((1, DIM), np.float32), now_s=0, state=np.full((1, DIM), 8.75, np.float32))
    table.update(table.find([5]), np.full((1, DIM), 0.5, np.float32))
    assert table.lookup([5])[0] == pytest.approx(1 - 0.5 * 0.5 / np.sqrt(8.75 + 0.25))


@pytest.mark.parametrize(
    ("weights", "state", "rule"),
    [
        (np.ones((2, DIM), np.float64), None, r"weights must be float32 \(n, D\)"),
        (np.ones((1, DIM), np.float32), None, r"weights must be \(2, 4\), got \(1, 4\)"),
        (np.full((2, DIM), np.nan, np.float32), None, "weights must be finite"),
        (np.ones((2, DIM), np.float32), np.ones((2, 3), np.float32), r"state must be \(2, 4\), got \(2, 3\)"),
        (np.ones((2, DIM), np.float32), np.full((2, DIM), np.inf, np.float32), "state must be finite"),
    ],
)
def test_rows_that_do_not_fit_are_refused_and_change_nothing(weights: np.ndarray, state: np.ndarray | None, rule: str) -> None:
    table = EmbeddingTable(DIM, RULE)
    with pytest.raises(ValueError, match=rule):
        table.assign([1, 2], weights, now_s=0, state=state)
    assert len(table) == 0 and table.stats().admitted == 0


def test_a_removed_fid_that_learns_again_starts_anew() -> None:
    table = EmbeddingTable(DIM, RULE, init_scale=0.5, seed=3)
    start = table.gather(table.find_or_insert(np.array([9]), 0)).copy()
    table.update(table.find([9]), np.ones((1, DIM), np.float32))
    table.remove([9])
    assert (table.lookup([9]) == 0).all()
    rows = table.find_or_insert(np.array([9]), 0)
    assert (table.gather(rows) == start).all() and (table.state(rows) == RULE.initial_accumulator).all()


def test_assigned_rows_age_from_the_time_of_the_call() -> None:
    table = EmbeddingTable(DIM, Sgd(), ttl_s=100)
    table.assign([1], weights_of(1), now_s=1_000)
    table.assign([2], weights_of(1), now_s=1_090)
    assert table.evict(1_105).tolist() == [1]


def test_a_budget_holds_again_at_the_next_look_up() -> None:
    table = EmbeddingTable(DIM, Sgd(), budget=MemoryBudget(10_000))
    table.assign(np.arange(2_000), weights_of(2_000), now_s=0)
    table.find_or_insert(np.array([-1]), 1_000)
    assert len(table) < 250


@pytest.mark.parametrize("rule", [Sgd(), Adam(), RULE], ids=lambda rule: rule.kind)
def test_rows_move_through_a_file_with_all_that_a_table_keeps(rule: Optimizer, tmp_path: Path) -> None:
    first, second = (EmbeddingTable(DIM, rule, ttl_s=1_000, seed=seed) for seed in (1, 2))
    for now_s in (50, 70):
        rows = first.find_or_insert(np.arange(now_s, now_s + 30), now_s)
        first.update(rows, np.ones((30, DIM), np.float32))
    assert write_rows(tmp_path / "rows.parquet", first.chunks(max_rows=7), first.forms, first.state_width) == 50
    for chunk in read_rows(tmp_path / "rows.parquet", max_rows=9):
        second.put(chunk, now_s=99)
    ours, theirs = (table.read(table.fids()) for table in (first, second))
    for name in ("fids", "weights", "state", "counts", "seen_s"):
        assert (getattr(ours, name) == getattr(theirs, name)).all(), name
    assert [path.name for path in tmp_path.iterdir()] == ["rows.parquet"]


def test_the_state_of_another_rule_starts_anew(tmp_path: Path) -> None:
    first, second = EmbeddingTable(DIM, Adam()), EmbeddingTable(DIM, RULE)
    first.update(first.find_or_insert(np.arange(5), 0), np.ones((5, DIM), np.float32))
    for chunk in first.chunks():
        second.put(chunk, now_s=0)
    rows = second.read(np.arange(5))
    assert (rows.weights == first.lookup(np.arange(5))).all()
    assert (rows.state == RULE.initial_accumulator).all()


def test_chunks_leave_out_rows_evicted_meanwhile() -> None:
    table = EmbeddingTable(DIM, Sgd())
    table.assign(np.arange(6), weights_of(6), now_s=0)
    chunks = table.chunks(max_rows=2)
    found: list[TableRows] = [next(chunks)]
    table.remove([2, 5])
    table.assign([100], weights_of(1), now_s=0)
    found += chunks
    assert [fid for chunk in found for fid in chunk.fids.tolist()] == [0, 1, 3, 4]
