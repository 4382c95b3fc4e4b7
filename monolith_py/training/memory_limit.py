"""Limit of the trainer's memory over all tables: a warning, then eviction, before the kernel kills the process.

Memory of an evicted row is not given back: new rows take its place. So the process stops growing near the limit, as a budget of each
table does, and loses the rows of least priority in place of all that it has learnt since the last checkpoint. Budgets remain the
better way: which rows go by this limit depends on the machine.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from monolith_py.clock import Clock
from monolith_py.observe import metrics
from monolith_py.observe.memory import find_cgroup, resident_bytes
from monolith_py.table import EmbeddingBags

_logger = logging.getLogger(__name__)

# Shares of the limit from which on there is a warning, and rows go: a checkpoint and a batch take memory, too.
_WARN, _EVICT = 0.85, 0.92
# Share of the rows of each table that go at once, and the share of free rows below which the next ones do.
_SHARE, _FREE = 0.05, 0.01
_CHECK_S, _WARN_EVERY_S = 1.0, 60.0


class MemoryLimit:
    """Watches the memory of the process, and shrinks the tables of `bags` near the limit."""

    def __init__(self, bags: EmbeddingBags, clock: Clock, limit_bytes: int | None, used_bytes: Callable[[], int]) -> None:
        """`limit_bytes` None: no limit."""
        self._bags, self._clock, self._limit_bytes, self._used_bytes = bags, clock, limit_bytes, used_bytes
        self._check_due_s = self._warn_due_s = clock.monotonic_s()
        metrics.MEMORY_LIMIT_BYTES.set(limit_bytes or 0)

    @staticmethod
    def of(bags: EmbeddingBags, clock: Clock, setting: int | None) -> MemoryLimit:
        """Return the limit of a setting: 0 is none, None that of the control group."""
        if setting is not None:
            return MemoryLimit(bags, clock, setting or None, resident_bytes)
        cgroup = find_cgroup()
        return MemoryLimit(bags, clock, cgroup.limit_bytes, cgroup.used_bytes) if cgroup else MemoryLimit(bags, clock, None, resident_bytes)

    def check(self) -> int:
        """Look at the memory once a second; return the number of rows evicted."""
        if self._limit_bytes is None or self._clock.monotonic_s() < self._check_due_s:
            return 0
        self._check_due_s = self._clock.monotonic_s() + _CHECK_S
        used = self._used_bytes()
        metrics.MEMORY_USED_BYTES.set(used)
        if used > _WARN * self._limit_bytes and self._clock.monotonic_s() >= self._warn_due_s:
            self._warn_due_s = self._clock.monotonic_s() + _WARN_EVERY_S
            tables = {name: table.stats().bytes for name, table in self._bags.tables.items()}
            _logger.warning("memory is at %d of %d bytes: set features.budget_bytes; bytes by table: %s", used, self._limit_bytes, tables)
        if used <= _EVICT * self._limit_bytes:
            return 0
        # A frozen table does not grow, and none of its rows would come back.
        num = sum(self._shrink(name) for name in self._bags.tables if name not in self._bags.frozen_tables)
        if num:
            _logger.error("memory is at %d of %d bytes: evicted %d rows of least priority", used, self._limit_bytes, num)
        return num

    def _shrink(self, name: str) -> int:
        table = self._bags.tables[name]
        if table.num_free_rows >= _FREE * len(table):
            return 0
        return table.shrink(int(table.used_bytes * (1 - _SHARE)))
