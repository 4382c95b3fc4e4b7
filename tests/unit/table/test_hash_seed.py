"""MONOLITH_HASH_SEED repeats a run whose evictions sample buckets; without it each process has a secret of its own."""

from __future__ import annotations

import os
import subprocess
import sys

PROGRAM = """
import numpy as np
from monolith_py.table import Adagrad, EmbeddingTable, MemoryBudget
table = EmbeddingTable(4, Adagrad(), budget=MemoryBudget(200_000))
for turn in range(10):
    table.find_or_insert(np.arange(1_000) + 1_000 * turn, 100 * turn)
print(hash(tuple(table.export_rows()[0].tolist())))
"""


def rows_left(seed: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env={**os.environ, "MONOLITH_HASH_SEED": seed}, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_a_seed_repeats_evictions_and_another_changes_them() -> None:
    assert rows_left("1") == rows_left("1") != rows_left("2")
    assert rows_left("") != rows_left("")
