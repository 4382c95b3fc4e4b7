"""File of all scores of a backtest, Parquet.

Columns: request_id string, item_id int64, time_ms int64, `label_<task>` float32, `score_<arm>_<task>` float32. One row a candidate.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from monolith_streaming.backtest.result import BacktestResult


def write_scores(result: BacktestResult, path: Path) -> None:
    """Write the candidates in the order of event time."""
    columns = {"request_id": pa.array(result.request_ids), "item_id": pa.array(result.item_ids), "time_ms": pa.array(result.times_ms)}
    columns |= {f"label_{task}": pa.array(labels) for task, labels in result.labels.items()}
    for arm, scores in result.scores.items():
        columns |= {f"score_{arm}_{task}": pa.array(scores[:, place]) for place, task in enumerate(result.labels)}
    pq.write_table(pa.table(columns), path)
