"""A snapshot is complete or refused by name, and a restored table continues bit-equal."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monolith_py.errors import CheckpointError
from monolith_py.table import NO_ROW, Adagrad, Adam, EmbeddingTable, Ftrl, Optimizer, RowwiseAdagrad, Sgd

DIM = 4
SETTINGS: dict[str, Any] = {"dim": DIM, "optimizer": Adagrad(lr=0.5), "init_scale": 0.25, "admit_after": 2, "ttl_s": 100, "seed": 9}

# Saves a table of more rows over the one at the path, and is killed when its file has grown to 100 kB.
SAVE_AND_DIE = """
import resource, signal, sys
import numpy as np
from monolith_py.errors import CheckpointError
from monolith_py.table import EmbeddingTable, Sgd

table = EmbeddingTable(4, Sgd())
table.find_or_insert(np.arange(100_000), 0)
signal.signal(signal.SIGXFSZ, signal.SIG_DFL if sys.argv[2] == "killed" else signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    table.save(sys.argv[1])
except CheckpointError as error:
    print(error)
"""


def make_table(**settings: Any) -> EmbeddingTable:
    return EmbeddingTable(**{**SETTINGS, **settings})


def saved(path: Path) -> EmbeddingTable:
    """Save and return a table that has a bit of everything: rows, candidates, evicted and pending fids."""
    table = make_table()
    for now_s, fids in [(0, [1, 2, 3]), (0, [1, 2, -1, 2**63 - 1, -(2**63)]), (90, [2, -1, -(2**63), 4])]:
        table.find_or_insert(fids, now_s)
    table.ack("archive", table.drain("archive").ticket)
    table.drain("replicas")
    table.update(table.find([1, 2]), np.ones((2, DIM), np.float32))
    assert table.evict(150).tolist() == [1]
    table.save(path)
    return table


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "user_id.table"


def assert_refused(path: Path, reason: str = "") -> None:
    """Both ways in say which file, and the table that was to be filled is empty and works."""
    table = make_table()
    for restore in (EmbeddingTable.restore, table.restore_from):
        with pytest.raises(CheckpointError) as refused:
            restore(path)
        assert str(path) in str(refused.value) and reason in str(refused.value)
    assert (len(table), table.stats().candidates, len(table.find_or_insert([5, 5], 0))) == (0, 0, 2)


def test_rows_counts_ages_and_pending_drains_come_back(path: Path) -> None:
    table = saved(path)
    restored = EmbeddingTable.restore(path)
    assert (restored.name, restored.dim, len(restored)) == ("user_id", DIM, len(table))
    for left, right in zip(restored.export_rows(), table.export_rows(), strict=True):
        np.testing.assert_array_equal(left, right)
    counts = [(one.rows, one.candidates, one.admitted, one.filtered, one.evicted) for one in (restored.stats(), table.stats())]
    assert counts[0] == counts[1] == (3, 1, 4, 7, 1)
    for consumer in ("replicas", "archive", "new"):
        one, two = restored.drain(consumer), table.drain(consumer)
        assert sorted(one.fids.tolist()) == sorted(two.fids.tolist())
        assert one.evicted.tolist() == two.evicted.tolist() == ([] if consumer == "new" else [1])
    assert restored.find_or_insert([4], 190) != [NO_ROW], "its one sighting counted"
    assert restored.evict(190).tolist() == []
    assert restored.evict(191).tolist() == [-(2**63), -1, 2], "seen at 90"


@pytest.mark.parametrize(
    "rule",
    [Sgd(lr=0.1), Adagrad(lr=0.1), RowwiseAdagrad(lr=0.1), Adam(lr=0.1), Ftrl(lr=0.1, l1=0.1)],
    ids=lambda rule: rule.kind,
)
def test_learning_goes_on_bit_equal_from_a_snapshot(path: Path, rule: Optimizer) -> None:
    generator = np.random.default_rng(3)
    one = make_table(optimizer=rule, admit_after=1)
    for step in range(20):
        if step == 10:
            one.save(path)
            two = make_table(optimizer=rule, admit_after=1)
            two.restore_from(path)
            three = EmbeddingTable.restore(path)
        fids, gradients = generator.integers(0, 30, 20), generator.normal(size=(20, DIM)).astype(np.float32)
        for table in (one,) if step < 10 else (one, two, three):
            table.update(table.find_or_insert(fids, step), gradients)
    for table in (two, three):
        for left, right in zip(one.export_rows(), table.export_rows(), strict=True):
            np.testing.assert_array_equal(left, right)


def test_a_file_that_ends_too_early_or_too_late_is_refused_wherever_it_ends(path: Path) -> None:
    saved(path)
    content = path.read_bytes()
    for size in range(len(content)):
        path.write_bytes(content[:size])
        assert_refused(path)
    path.write_bytes(content + b"\0")
    assert_refused(path, "damaged")
    path.write_bytes(content)
    assert len(EmbeddingTable.restore(path)) == 3


def test_a_flipped_bit_is_refused_wherever_it_is(path: Path) -> None:
    saved(path)
    content = path.read_bytes()
    for place in range(len(content)):
        bit = 1 << (place % 8)
        path.write_bytes(content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :])
        assert_refused(path)


@pytest.mark.parametrize("content", [b"", b"no table at all" * 100, bytes(4096)], ids=["empty", "text", "zeros"])
def test_another_file_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert_refused(path)


def test_what_is_absent_or_no_file_is_refused(tmp_path: Path, path: Path) -> None:
    assert_refused(path)
    assert_refused(tmp_path)
    with pytest.raises(CheckpointError, match=r"absent/user_id\.table"):
        make_table().save(tmp_path / "absent" / "user_id.table")


@pytest.mark.parametrize(
    ("setting", "value"),
    [("dim", 8)],
)
def test_a_table_of_another_layout_is_refused_and_stays_empty(path: Path, setting: str, value: Any) -> None:
    saved(path)
    table = make_table(**{setting: value})
    with pytest.raises(CheckpointError, match=rf"{path}.*{setting} expected .*, got "):
        table.restore_from(path)
    assert (len(table), table.stats().candidates, len(table.drain("replicas").fids)) == (0, 0, 0)


def test_the_rates_may_be_others_and_those_of_the_table_count(path: Path) -> None:
    first = make_table(optimizer=Sgd(lr=1.0), admit_after=1)
    before = first.gather(first.find_or_insert([1], 0))
    first.save(path)
    second = make_table(optimizer=Sgd(lr=0.5), admit_after=1)
    second.restore_from(path)
    second.update(second.find([1]), np.ones((1, DIM), np.float32))
    np.testing.assert_array_equal(second.gather(second.find([1])), before - np.float32(0.5))


@pytest.mark.parametrize("end", ["killed", "disk full"])
def test_a_save_that_does_not_end_leaves_the_snapshot_before_it(path: Path, end: str) -> None:
    table = saved(path)
    content = path.read_bytes()
    saver = subprocess.run([sys.executable, "-c", SAVE_AND_DIE, str(path), end], capture_output=True, text=True, check=False)
    if end == "killed":
        assert saver.returncode == -signal.SIGXFSZ, saver.stderr
        assert [one.stat().st_size for one in path.parent.iterdir() if one != path] == [100_000], "what the dead left behind"
    else:
        assert saver.returncode == 0 and str(path) in saver.stdout, saver.stderr
        assert list(path.parent.iterdir()) == [path]
    assert path.read_bytes() == content
    assert len(EmbeddingTable.restore(path)) == len(table)
    table.find_or_insert([77, 77], 150)
    table.save(path)
    assert list(path.parent.iterdir()) == [path]
    assert len(EmbeddingTable.restore(path)) == len(table)
