"""The data engineer's way: tables, log, archive, replay, and a new model that learns the replay and goes on with the live examples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from monolith_py.cli import app
from monolith_py.training import Checkpoint

START_MS, HOUR_MS, NUM_REQUESTS, NUM_CANDIDATES = 1_700_000_000_000, 3_600_000, 400, 3

TOML = """
name = "shop"
[log]
url = "{url}"
partitions = 2
topic_prefix = "tables."
[kv]
url = "sqlite:///{folder}/kv.db"
[[features]]
name = "user_id"
source = "user_id"
[[features]]
name = "item_id"
source = "item_id"
[[features]]
name = "tags"
source = "item"
[[tasks]]
name = "click"
action = "click"
[model]
tower = [8]
[joiner]
window_s = 60
allowed_lateness_s = 600
[trainer]
checkpoint_dir = "{folder}/checkpoints"
num_threads = 1
"""


def monolith(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, (done.output, done.exception)
    return done.output


def write(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("log", ["sqlite", pytest.param("kafka", marks=pytest.mark.needs_kafka)])
def test_tables_become_a_model_that_has_learnt_every_example_once(tmp_path: Path, log: str, request: pytest.FixtureRequest) -> None:
    config, archive = tmp_path / "job.toml", tmp_path / "archive"
    url = f"sqlite:///{tmp_path}/log" if log == "sqlite" else request.getfixturevalue("kafka_url")
    config.write_text(TOML.format(folder=tmp_path, url=url))
    requests = np.repeat(np.arange(NUM_REQUESTS), NUM_CANDIDATES)
    times_ms = START_MS + requests * 30_000
    items = write(tmp_path / "items.parquet", item_id=[f"i{item}" for item in range(50)], tags=[["a"], ["b", "c"]] * 25)
    shown = write(
        tmp_path / "impressions.parquet",
        request_id=[f"r{request}" for request in requests],
        time_ms=pa.array(times_ms).cast(pa.timestamp("ms")),
        user_id=requests % 20,
        item_id=[f"i{row * 7 % 50}" for row in range(len(requests))],
        clicked=[row % 5 == 0 for row in range(len(requests))],
    )
    columns = tmp_path / "columns.toml"
    columns.write_text('[impressions]\nactions = { click = "clicked" }\n')

    monolith("topics", "--config", config)
    monolith("load", "--config", config, "--items", items, "--impressions", shown, "--columns", columns)
    monolith("join", "--config", config, "--stop-at-end")
    monolith("archive", "--config", config, archive)
    cut_ms = START_MS + 300 * 30_000
    monolith("replay", "--config", config, "--start", START_MS, "--end", cut_ms, "--archive", archive, "--output", "backfill")
    # The same from the log: every record is there.
    assert "records_written=0" in monolith("replay", "--config", config, "--start", START_MS, "--end", cut_ms, "--output", "backfill")
    monolith("train", "--config", config, "--source", "backfill", "--stop-at-end")

    (checkpoint, *_) = Checkpoint.all_in(tmp_path / "checkpoints")
    assert checkpoint.meta.examples_trained == NUM_REQUESTS * NUM_CANDIDATES
    assert checkpoint.meta.source is not None and checkpoint.meta.source.is_done and checkpoint.meta.source.live_from_ms == cut_ms
    assert "live" in monolith("inspect", tmp_path / "checkpoints")
    query = "select count(*), sum(label_click), count(distinct request_id), min(len(s_tags)) from read_parquet('{}')"
    (row,) = duckdb.sql(query.format(f"{archive}/topic=examples/*/*/*.parquet")).fetchall()
    assert row == (NUM_REQUESTS * NUM_CANDIDATES, 240, NUM_REQUESTS, 1)
