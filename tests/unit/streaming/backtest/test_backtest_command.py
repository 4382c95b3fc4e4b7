"""`monolith backtest` on a small SQLite log."""

from __future__ import annotations

import builtins
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from matplotlib.image import imread
from typer.testing import CliRunner

from monolith_py.cli import app
from monolith_py.io import Log
from monolith_py.io.log.topics import create_topics
from monolith_py.training import auc, calibration, normalized_entropy, per_impression_auc

TOML = """
name = "test"
[log]
url = "sqlite:///{folder}/log"
[kv]
url = "sqlite:///{folder}/kv.db"
[[features]]
name = "user"
source = "user_id"
dim = 8
[[features]]
name = "item"
source = "item"
dim = 8
[[tasks]]
name = "is_click"
action = "click"
[[tasks]]
name = "never"
action = "never"
[model]
tower = [16]
[joiner]
window_s = 100
[trainer]
checkpoint_dir = "{folder}/checkpoints"
num_threads = 1
"""


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    root, kafka = logging.getLogger(), logging.getLogger("kafka")
    handlers, levels = list(root.handlers), (root.level, kafka.level)
    root.handlers = []
    yield
    root.handlers = handlers
    root.setLevel(levels[0])
    kafka.setLevel(levels[1])


@pytest.fixture
def config(tmp_path: Path, stream: Any, world: Any, make_log: Callable[..., Log]) -> Path:
    """A job with 100 requests in its log, one each 30 s."""
    job = stream.job(log_url=f"sqlite:///{tmp_path}/log")
    log = make_log()
    create_topics(log, job.log)
    world.append(job, log, *stream.events(100))
    path = tmp_path / "job.toml"
    path.write_text(TOML.format(folder=tmp_path))
    return path


def run(config: Path, *options: str) -> Any:
    return CliRunner().invoke(app, ["backtest", "--config", str(config), *options], catch_exceptions=False)


def test_it_prints_and_writes_the_figures(config: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    arms = ["--arm", "live", "--arm", "frozen", "--arm", "ten=600"]
    result = run(config, "--start", "2023-11-15T00:10:00", "--output", str(output), "--slice-s", "10", *arms)
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in output.iterdir()) == ["auc.png", "calibration.png", "figures.json", "scores.parquet"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["job.toml", "log", "out"]
    document = json.loads((output / "figures.json").read_text())
    assert document["counts"]["requests"] == 80 and document["counts"]["candidates"] == 240
    assert document["options"]["arms"][2] == {"name": "ten", "refresh_s": 600.0}
    assert document["gains_over"] == "frozen" and document["settings"]["seed"] == 0

    table = pq.read_table(output / "scores.parquet")
    columns = {name: table[name].to_pylist() for name in table.column_names}
    assert columns["request_id"] == [f"r{index}" for index in range(20, 100) for _ in range(3)]
    labels = np.array(columns["label_is_click"])
    for arm in ("live", "frozen", "ten"):
        scores, figures = np.array(columns[f"score_{arm}_is_click"], np.float32), document["figures"][arm]["is_click"]
        codes = np.repeat(np.arange(80), 3)
        assert figures["auc"] == auc(labels, scores)
        assert figures["per_impression_auc"] == per_impression_auc(labels, scores, codes)
        assert figures["ne"] == pytest.approx(normalized_entropy(labels, scores))
        assert figures["calibration"] == pytest.approx(calibration(labels, scores))
        assert figures["label_rate"] == pytest.approx(labels.mean())
        assert f"{figures['auc']:.4f}" in result.stdout
    gain = document["figures"]["live"]["is_click"]["gain"]
    assert gain["low"] < gain["auc"] < gain["high"]
    assert document["figures"]["frozen"]["is_click"]["gain"] is None
    assert document["figures"]["live"]["never"]["auc"] is None
    assert sum(one["figures"]["live"]["is_click"]["num_candidates"] for one in document["series"]) == 240
    assert imread(output / "auc.png").std() > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--start", "2030-01-01"], "start must be at most the time of the last impression in 'impressions', got 1893456000000 ms"),
        (["--start", "2023-11-15T00:10:01", "--end", "2023-11-15T00:10:02"], "start and end must have impressions"),
        (["--start", "2023-11-15", "--end", "2023-11-14"], "end_ms must be after start_ms 1700006400000, got 1699920000000"),
        (["--start", "2023-11-15", "--arm", "weekly"], "arm must be one of ['daily', 'frozen', 'hourly', 'live'] or NAME=SECONDS"),
        (["--start", "2023-11-15", "--slice-s", "0"], "slice_s must be at least 0.001 s, got 0.0"),
        (["--start", "2023-11-15", "--arm", "live", "--arm", "live"], "arms must be at least one, of different names"),
    ],
)
def test_a_wrong_option_is_one_line(config: Path, tmp_path: Path, options: list[str], message: str) -> None:
    result = run(config, *options, "--output", str(tmp_path / "out"))
    assert result.exit_code == 1
    assert f"ConfigError: {message}" in result.stderr or message in result.stderr


def test_without_matplotlib_the_figures_come_without_plots(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.delitem(sys.modules, "monolith_streaming.backtest.plots", raising=False)
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "matplotlib":
            raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    output = tmp_path / "out"
    result = run(config, "--start", "2023-11-15T00:10:00", "--output", str(output), "--arm", "live", "--slice-s", "60")
    assert result.exit_code == 0
    assert "no plots written: they need matplotlib" in result.stderr
    assert sorted(path.name for path in output.iterdir()) == ["figures.json", "scores.parquet"]
