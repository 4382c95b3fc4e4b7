"""Calls that visit every row of a table let other threads run."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from monolith_py.table import Adagrad, EmbeddingTable

NUM_ROWS = 200_000
ATTEMPTS = 100
ROWS = np.arange(NUM_ROWS, dtype=np.uint32)
CALLS: dict[str, Callable[[EmbeddingTable], object]] = {
    "export_rows": lambda table: table.export_rows(),
    "entries": lambda table: table.core.entries(),
    "state": lambda table: table.core.state(ROWS),
}


class Counting(threading.Thread):
    """Counts whenever it may run."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.count, self.is_over = 0, False

    def run(self) -> None:
        while not self.is_over:
            self.count += 1
            time.sleep(0)  # hands the GIL back


@pytest.fixture
def counting() -> Iterator[Counting]:
    """A thread that runs only while this one gives the GIL away by itself: Python takes it from nobody."""
    interval_s, thread = sys.getswitchinterval(), Counting()
    thread.start()
    sys.setswitchinterval(1000.0)
    yield thread
    sys.setswitchinterval(interval_s)
    thread.is_over = True
    thread.join()


@pytest.fixture(scope="module")
def table() -> EmbeddingTable:
    table = EmbeddingTable(16, Adagrad())
    table.find_or_insert(np.arange(NUM_ROWS), 0)
    return table


@pytest.mark.parametrize("name", CALLS)
def test_other_threads_run_while_a_call_visits_all_rows(table: EmbeddingTable, counting: Counting, name: str) -> None:
    """Loading 4 million rows held the GIL for 0.7 s, in which no request was ranked: serving.md, row 12."""
    for _ in range(ATTEMPTS):
        before = counting.count
        CALLS[name](table)
        if counting.count > before:
            return
    pytest.fail(f"{name} held the GIL in {ATTEMPTS} calls")
