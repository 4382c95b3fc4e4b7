"""Memory of a history while it loads: a bounded multiple of its columns, as streaming/README.md says."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from monolith_py.config.load import parse_columns
from monolith_py.data.events import EventTimeRule
from monolith_streaming.load.bad_rows import BadRows
from monolith_streaming.load.history import HistoryTables
from monolith_streaming.load.table_file import TableFile

NOW_MS = 1_700_000_000_000
NUM = 20_000
PER_REQUEST = 10
TIMES_RAW = 4.0


def test_a_history_takes_no_more_than_four_times_its_columns_while_it_is_read(target: Any, tmp_path: Path) -> None:
    """Measured: 3.1 times, for 100,000 and 300,000 rows alike."""
    rng, rows = np.random.default_rng(0), np.arange(NUM)
    columns: dict[str, Any] = {
        "request_id": [f"request-{row // PER_REQUEST:09d}" for row in rows],
        "time_ms": NOW_MS + rows // PER_REQUEST,
        "user_id": rows // PER_REQUEST,
        "item_id": rng.integers(0, 1 << 40, NUM),
        "place": rows // PER_REQUEST,
        "tags": rng.integers(0, 1 << 40, (NUM, 3)).tolist(),
        "price": rng.random((NUM, 2)).tolist(),
        "click": rng.integers(0, 2, NUM),
    }
    table = tmp_path / "impressions.parquet"
    pq.write_table(pa.table(columns), table, row_group_size=NUM // 4)
    del columns
    raw_bytes = NUM * (17 + 4 * 8 + (4 + 3 * 8) + 2 * 4 + 8)
    mapped = parse_columns({"impressions": {"actions": {"click": "click"}}}).impressions
    tracemalloc.start()
    try:
        tables = HistoryTables(target.job, EventTimeRule.of(target.job.log), NOW_MS + 10**9)
        requests, actions = tables.requests(TableFile(table, BadRows(table, skip=False)), mapped)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (len(requests.request_ids), len(requests.items)) == (NUM // PER_REQUEST, NUM)
    assert NUM // 3 < len(actions) < NUM
    assert raw_bytes < peak < TIMES_RAW * raw_bytes
