"""A limit of memory over all tables: a warning, then rows of least priority go, and the process stops growing."""

from __future__ import annotations

import numpy as np
import pytest

from monolith_py.clock import ManualClock
from monolith_py.table import EmbeddingBags, Feature, Sgd
from monolith_py.training import MemoryLimit

LIMIT = 1_000_000


class Memory:
    """A process that takes `used` bytes."""

    def __init__(self) -> None:
        self.used = 0
        self.clock = ManualClock(0)
        self.bags = EmbeddingBags([Feature("a", dim=4), Feature("b", dim=4)], Sgd())
        self.limit = MemoryLimit(self.bags, self.clock, LIMIT, lambda: self.used)

    def check(self, used: int) -> int:
        self.used = used
        self.clock.advance(1.0)
        return self.limit.check()


@pytest.fixture
def memory() -> Memory:
    made = Memory()
    for name, table in made.bags.tables.items():
        for second in range(10):
            table.find_or_insert(np.arange(100) + 100 * second + (10**6 if name == "b" else 0), 100 * second)
    return made


def test_rows_least_recently_seen_go_near_the_limit_and_are_used_again(memory: Memory, caplog: pytest.LogCaptureFixture) -> None:
    assert (memory.check(800_000), caplog.text) == (0, "")
    assert memory.check(900_000) == 0
    assert "memory is at 900000 of 1000000 bytes: set features.budget_bytes" in caplog.text
    evicted = memory.check(930_000)
    assert 100 <= evicted <= 400
    table = memory.bags.tables["a"]
    left = table.fids()
    assert set(range(900, 1000)) <= set(left.tolist()), "the newest stay"
    assert memory.check(940_000) == 0, "rows are free for new ones"
    for name, one in memory.bags.tables.items():
        one.find_or_insert(np.arange(500) + (10**7 if name == "b" else 10**8), 2_000)
    assert memory.check(940_000) > 0


def test_a_look_a_second_is_enough(memory: Memory) -> None:
    assert memory.check(960_000) > 0
    memory.bags.tables["a"].find_or_insert(np.arange(10**5, 10**5 + 500), 2_000)
    assert memory.limit.check() == 0


def test_rows_of_a_frozen_table_stay(memory: Memory) -> None:
    memory.bags.requires_grad_(False, ["a"])
    assert memory.check(960_000) > 0
    assert len(memory.bags.tables["a"]) == 1_000 > len(memory.bags.tables["b"])


def test_without_a_limit_nothing_goes() -> None:
    bags = EmbeddingBags([Feature("a", dim=4)], Sgd())
    assert MemoryLimit.of(bags, ManualClock(0), 0).check() == 0
    limit = MemoryLimit.of(bags, ManualClock(0), 1)
    assert limit.check() == 0, "no row is there"


def test_evictions_reach_consumers(memory: Memory) -> None:
    table = memory.bags.tables["a"]
    delta = table.drain("replicas")
    table.ack("replicas", delta.ticket)
    num = table.shrink(table.used_bytes // 2)
    assert 450 <= num <= 600
    evicted = table.drain("replicas").evicted
    assert len(evicted) == num and not set(evicted) & set(table.fids())
    assert table.shrink(0) == 1000 - num and len(table) == 0
    with pytest.raises(ValueError, match="max_bytes must be >= 0, got -1"):
        table.shrink(-1)
