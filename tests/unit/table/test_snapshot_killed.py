"""A process killed at any stage of a save leaves the earlier snapshots intact, and increments can follow them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from monolith_py import _core
from monolith_py.errors import CheckpointError
from monolith_py.table import EmbeddingTable, Sgd

NUM_ROWS, DIM = 20_000, 4

# Writes version after version of a table over the base at argv[1] or, from the second on, as increments beside it, and says each stage.
# All weights of version v are v once it is finished; batches go on in between.
SAVER = """
import itertools
import sys
import numpy as np
from monolith_py import _core

part = _core.Slice("weights", 4, "sgd", {"lr": 1.0}, "zeros", 0.0, "fp16")
table = _core.Table([part], seed=0, admission="count", admit_after=1, sketch_bytes=0, sketch_window_s=0, ttl_s=0, eviction="none",
                    budget_bytes=0, half_life_s=0)
rows = np.empty(20_000, np.uint32)
table.find_or_insert(np.arange(20_000), 0, rows)
gradients = np.full((20_000, 4), -1, np.float32)
for version in itertools.count(1):
    is_base = sys.argv[2] == "bases" or version == 1
    path = sys.argv[1] if sys.argv[2] == "bases" else f"{sys.argv[1]}.{version}"
    saving = table.start_saving(path, version, 0 if is_base else version - 1)
    print("started", version, flush=True)
    for first in range(0, 20_000, 100):  # so that every version has been through copies of what was changed meanwhile
        table.update(rows[first:first + 100], gradients[first:first + 100])
        if first % 500 == 0:
            saving.copy(50)
            print("copied", version, flush=True)
    saving.finish()
    print("finished", version, flush=True)
    saving.commit(True)
    print("committed", version, flush=True)
"""


def versions_until_killed(path: Path, kind: str, num_lines: int) -> int:
    """Let the saver say so many lines and kill it; return the version that it said last to be committed."""
    saver = subprocess.Popen([sys.executable, "-c", SAVER, str(path), kind], stdout=subprocess.PIPE, text=True)
    assert saver.stdout is not None
    with saver, saver.stdout:
        lines = [saver.stdout.readline().split() for _ in range(num_lines)]
        saver.kill()
        lines += [line.split() for line in saver.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
    assert saver.returncode == -9
    committed = [int(version) for stage, version in lines if stage == "committed"]
    return max(committed, default=0)


def version_of(table: EmbeddingTable) -> float:
    weights = table.export_rows()[1]
    assert weights.shape == (NUM_ROWS, DIM) and (weights == weights[0, 0]).all()
    return float(weights[0, 0])


@pytest.mark.parametrize("num_lines", [44, 45, 61, 85, 86, 90, *np.random.default_rng(1).integers(43, 400, 4).tolist()])
def test_a_base_that_is_not_finished_leaves_the_one_before(num_lines: int, tmp_path: Path) -> None:
    path = tmp_path / "t"
    committed = versions_until_killed(path, "bases", num_lines)
    assert version_of(EmbeddingTable.restore(path)) in (committed, committed + 1)
    assert committed > 0 and {one.name for one in tmp_path.iterdir()} <= {"t", "t.tmp"}
    table = EmbeddingTable.restore(path)
    table.save(path)
    assert [one.name for one in tmp_path.iterdir()] == ["t"], "what the dead left behind is written over"


@pytest.mark.parametrize("num_lines", [50, 86, 130, *np.random.default_rng(2).integers(43, 400, 4).tolist()])
def test_increments_that_were_committed_are_there(num_lines: int, tmp_path: Path) -> None:
    path = tmp_path / "t"
    committed = versions_until_killed(path, "increments", num_lines)
    there = sorted(int(one.suffix[1:]) for one in tmp_path.iterdir() if one.suffix != ".tmp")
    assert there in (list(range(1, committed + 1)), list(range(1, committed + 2)))
    restored = EmbeddingTable.restore(*(f"{path}.{version}" for version in there))
    assert version_of(restored) == len(there) > 0


def test_a_snapshot_that_fails_leaves_the_one_before_and_lets_no_increment_follow(tmp_path: Path) -> None:
    table = EmbeddingTable(DIM, Sgd())
    table.find_or_insert([1], 0)
    saving = table.start_saving(tmp_path / "base")
    saving.finish()
    saving.commit(track=True)
    table.find_or_insert([2], 0)
    saving = table.start_saving(tmp_path / "t", increment=True)
    (tmp_path / "t").mkdir()  # what bears the name cannot be replaced
    saving.finish()
    with pytest.raises(CheckpointError, match=f"{tmp_path / 't'}: Is a directory"):
        saving.commit(track=True)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["base", "t"], "nothing half-written stays"
    assert EmbeddingTable.restore(tmp_path / "base").find([1, 2]).tolist() == [0, _core.NO_ROW]
    with pytest.raises(ValueError, match="needs changes to be tracked"):
        table.start_saving(tmp_path / "u", increment=True)
    table.save(tmp_path / "next")
    assert len(EmbeddingTable.restore(tmp_path / "next")) == 2
