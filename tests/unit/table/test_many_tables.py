"""Tables take addresses by use: a host of any memory holds thousands, also under a limit of addresses."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import resource
import numpy as np
from monolith_py import _core
from monolith_py.table import Adagrad, EmbeddingTable

def mapped():
    return int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()

before = mapped()
limit = before + (16 << 30)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
tables = [EmbeddingTable(16, Adagrad()) for _ in range(2_000)]
maps = [_core.IdMap() for _ in range(2_000)]
for table in tables:
    table.find_or_insert(np.arange(100), 0)
print(len(tables), (mapped() - before) >> 20)
try:
    tables[0].find_or_insert(np.arange(150_000_000), 0)
except MemoryError as error:
    print(error)
print(len(tables[0]), len(tables[0].find(np.arange(100))))
"""


def test_two_thousand_tables_and_maps_fit_into_16_gib_of_addresses() -> None:
    """1.5 to 2 times the memory of the host for each table left room for 40 tables at 2 TiB."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    first, *message, last = done.stdout.splitlines()
    count, mib = map(int, first.split())
    assert (count, last) == (2_000, "100 100") and mib < 4_096
    assert len(message) == 1
