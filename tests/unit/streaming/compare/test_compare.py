"""Comparison of arms: every figure against its definition, pairs where both arms scored, and labels in their final state."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from monolith_py.cli import app
from monolith_py.config import JobConfig, TaskConfig, parse_job
from monolith_py.data.columns import FeatureColumns
from monolith_py.data.events import Impression
from monolith_py.data.examples import ExampleBatch, ExampleKind
from monolith_py.data.served import ServedModel, ServedScores
from monolith_py.errors import ConfigError
from monolith_py.io import Log
from monolith_py.io.codec import encode_examples, encode_impression
from monolith_py.io.log.topics import Topics, create_topics
from monolith_streaming.compare import Comparison, compare_arms, read_comparison

START_MS = 1_700_000_000_000
WINDOW_MS = 100_000


def make_job(folder: Path, **changes: Any) -> JobConfig:
    document = {
        "name": "compared",
        "log": {"url": f"sqlite:///{folder}/log", **changes.get("log", {})},
        "kv": {"url": "memory:"},
        "features": [{"name": "item", "source": "item_id", "dim": 8}],
        "tasks": [{"name": "click", "action": "click"}],
        "joiner": {"window_s": 100, "allowed_lateness_s": 1000, "max_out_of_orderness_s": 0},
        "trainer": {"checkpoint_dir": "unused"},
        "serving": changes.get("serving", {}),
    }
    return parse_job(document)


class World:
    """A log with served requests, their examples, and scores of a shadow."""

    def __init__(self, folder: Path, log: Log) -> None:
        self.log, self.job = log, make_job(folder)
        self.wide = make_job(folder, log={"model_prefix": "wide."}, serving={"arm": "wide"})
        for job in (self.job, self.wide):
            create_topics(log, job.log)

    def serve(self, request_id: str, user: int, items: Sequence[int], at_ms: int = 0) -> None:
        impression = _impression(request_id, user, items, START_MS + at_ms, np.zeros((len(items), 0), np.float32), ())
        self.log.append("impressions", [encode_impression(impression)], time_ms=START_MS + at_ms)

    def label(self, request_id: str, item: int, label: float, score: float, **changes: Any) -> None:
        at_ms, arm = changes.get("at_ms", 0), changes.get("arm", "live")
        served = ServedScores({"click": np.array([score], np.float32)}, (ServedModel(arm, "1.5"),), np.zeros(1, np.int32))
        batch = ExampleBatch(
            (request_id,),
            np.array([item]),
            np.array([START_MS + at_ms]),
            np.array([changes.get("kind", ExampleKind.LABELLED)], np.uint8),
            np.array([changes.get("rate", 1.0)], np.float32),
            {"click": np.array([label], np.float32)},
            FeatureColumns(1, {}),
            served,
        )
        self.log.append("examples", [encode_examples(batch)], time_ms=START_MS + at_ms)

    def shadow(self, request_id: str, user: int, items: Sequence[int], scores: Sequence[float], at_ms: int = 0) -> None:
        values = np.array(scores, np.float32)[:, None]
        one = _impression(request_id, user, items, START_MS + at_ms, values, ("click",), "wide")
        self.log.append(Topics.of(self.wide.log).shadow_scores, [encode_impression(one)], time_ms=START_MS + at_ms)

    def end(self) -> None:
        """A request that is younger than the window: all before are closed."""
        self.serve("last", 1, [1], at_ms=WINDOW_MS + 1)

    def compare(self) -> Comparison:
        return read_comparison(self.job, [self.wide], self.log)


def _impression(
    request_id: str, user: int, items: Sequence[int], time_ms: int, scores: np.ndarray, tasks: tuple[str, ...], arm: str = ""
) -> Impression:
    num = len(items)
    return Impression(request_id, time_ms, user, np.array(items), FeatureColumns(1, {}), FeatureColumns(num, {}), scores, tasks, "1.5", arm)


@pytest.fixture
def world(tmp_path: Path, make_log: Callable[..., Log]) -> World:
    return World(tmp_path, make_log())


def logloss(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> float:
    return float(-(weights * np.where(labels > 0, np.log(scores), np.log(1 - scores))).sum() / weights.sum())


def test_figures_are_those_of_their_definitions(world: World) -> None:
    generator = np.random.default_rng(4)
    rows = []
    for number in range(60):
        user, items = int(generator.integers(12)), [1, 2, 3]
        world.serve(f"r{number}", user, items)
        live, wide = generator.uniform(0.1, 0.9, 3).astype(np.float32), generator.uniform(0.1, 0.9, 3).astype(np.float32)
        for item, score in zip(items, live, strict=True):
            label = int(generator.random() < 0.4)
            rate = 1.0 if label else 0.5
            world.label(f"r{number}", item, label, float(score), rate=rate)
            rows.append((label, score, wide[item - 1], 1 / rate))
        world.shadow(f"r{number}", user, items, wide.tolist())
    world.end()
    labels, live, wide, weights = np.array(rows, np.float64).T
    figures, differences = compare_arms(world.compare())
    assert [one.arm for one in figures] == ["live", "wide (shadow)"]
    for one, scores in zip(figures, (live, wide), strict=True):
        above = (scores[:, None] > scores[None, :]) + 0.5 * (scores[:, None] == scores[None, :])
        pairs = np.outer(weights * labels, weights * (1 - labels))
        assert one.auc.value == pytest.approx(float((above * pairs).sum() / pairs.sum()), abs=1e-6)
        rate = (weights * labels).sum() / weights.sum()
        entropy = -rate * np.log(rate) - (1 - rate) * np.log(1 - rate)
        assert one.ne.value == pytest.approx(logloss(labels, scores, weights) / entropy, abs=1e-6)
        assert one.calibration.value == pytest.approx((weights * scores).sum() / (weights * labels).sum(), abs=1e-6)
        assert one.auc.low < one.auc.value < one.auc.high and one.ne.low < one.ne.value < one.ne.high
        assert (one.num_requests, one.num_candidates) == (60, 180)
    (difference,) = differences
    assert difference.is_paired and difference.ne.value == pytest.approx(figures[1].ne.value - figures[0].ne.value)


def test_a_paired_interval_is_narrow_where_both_arms_err_alike(world: World) -> None:
    generator = np.random.default_rng(4)
    for number in range(80):
        world.serve(f"r{number}", number % 20, [1])
        score = float(generator.uniform(0.2, 0.8))
        world.label(f"r{number}", 1, int(generator.random() < score), score)
        world.shadow(f"r{number}", number % 20, [1], [score * 0.98])
    world.end()
    (live, _), (difference,) = compare_arms(world.compare())
    assert difference.ne.high - difference.ne.low < 0.1 * (live.ne.high - live.ne.low)
    assert difference.calibration.value == pytest.approx(-0.02 * live.calibration.value, rel=1e-3)
    assert difference.calibration.is_clear


def test_arms_of_a_split_are_compared_without_pairs(world: World) -> None:
    generator = np.random.default_rng(5)
    for number in range(200):
        arm, score = ("live", 0.5) if number % 2 else ("wide", float(generator.uniform(0.05, 0.95)))
        label = generator.random() < (0.5 if number % 2 else score)
        world.serve(f"r{number}", number, [1])
        world.label(f"r{number}", 1, int(label), score, arm=arm)
    world.end()
    comparison = read_comparison(world.job, [], world.log)
    assert [one.title for one in comparison.arms] == ["live", "wide"]
    _, (difference,) = compare_arms(comparison)
    assert not difference.is_paired and difference.num_candidates == 100
    assert difference.ne.high < 0


def test_a_retraction_replaces_the_negative_that_it_takes_back(world: World) -> None:
    for number, request_id in enumerate("abc"):
        world.serve(request_id, number, [1])
        world.label(request_id, 1, 0, 0.5, rate=0.25)
    world.label("b", 1, 1, 0.5, kind=ExampleKind.RETRACTION)
    world.end()
    comparison = read_comparison(world.job, [], world.log)
    assert comparison.labels[:, 0].tolist() == [0.0, 1.0, 0.0]
    assert comparison.weights.tolist() == [4.0, 1.0, 4.0]


def test_a_request_with_an_open_window_is_left_out(world: World) -> None:
    """Its positives are known before its negatives."""
    world.serve("closed", 1, [1])
    world.label("closed", 1, 0, 0.5)
    world.serve("open", 2, [1], at_ms=5_000)
    world.label("open", 1, 1, 0.5, at_ms=5_000)
    world.serve("last", 3, [1], at_ms=WINDOW_MS + 4_000)
    assert len(read_comparison(world.job, [], world.log).labels) == 1
    assert len(read_comparison(world.job, [], world.log, end_ms=START_MS + 6_000).labels) == 2


def test_a_marker_of_a_transaction_behind_the_last_request_hides_no_window(world: World) -> None:
    world.serve("closed", 1, [1])
    world.label("closed", 1, 0, 0.5)
    world.end()
    world.log.append("impressions", [b"marker"], time_ms=0)
    read = world.log.read
    world.log.read = lambda *given: [one for one in read(*given) if one.value != b"marker"]  # type: ignore[method-assign]
    assert len(read_comparison(world.job, [], world.log).labels) == 1


def test_a_log_without_scores_or_a_job_of_another_log_is_refused(world: World, tmp_path: Path) -> None:
    world.end()
    with pytest.raises(ConfigError, match="start and end must have candidates with scores and labels"):
        world.compare()
    with pytest.raises(ConfigError, match="must have the log of 'compared'"):
        read_comparison(world.job, [make_job(tmp_path / "other")], world.log)


def test_the_command_writes_one_page_and_a_document(world: World, tmp_path: Path) -> None:
    for number in range(40):
        world.serve(f"r{number}", number, [1])
        world.label(f"r{number}", 1, number % 2, 0.5)
        world.shadow(f"r{number}", number, [1], [0.9 if number % 2 else 0.1])
    world.end()
    for name, job in (("main", world.job), ("wide", world.wide)):
        (tmp_path / f"{name}.toml").write_text(_toml(job))
    arguments = ["compare", "--config", f"{tmp_path}/main.toml", "--shadow", f"{tmp_path}/wide.toml", "--output", f"{tmp_path}/out"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "wide (shadow) is better than live in click." in result.output
    found = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert found["differences"][0]["auc"]["value"] == 0.5 and found["candidates"] == 40
    assert "wide (shadow) is better than live" in (tmp_path / "out" / "compare.html").read_text()


def _toml(job: JobConfig) -> str:
    prefix, arm = job.log.model_prefix, job.serving.arm
    return f"""
name = "compared"
tasks = [{{ name = "click", action = "click" }}]
features = [{{ name = "item", source = "item_id", dim = 8 }}]
joiner = {{ window_s = 100, allowed_lateness_s = 1000, max_out_of_orderness_s = 0 }}
log = {{ url = "{job.log.url}", model_prefix = "{prefix}" }}
kv = {{ url = "memory:" }}
trainer = {{ checkpoint_dir = "unused" }}
serving = {{ arm = "{arm}" }}
"""


def test_a_regression_is_compared_by_its_squared_error(world: World) -> None:
    tasks = [TaskConfig(name="click", kind="regression", action="watch")]
    world.job, world.wide = (job.model_copy(update={"tasks": tuple(tasks)}) for job in (world.job, world.wide))
    generator, rows = np.random.default_rng(3), []
    for number in range(60):
        world.serve(f"r{number}", number % 12, [1])
        value = float(generator.integers(0, 2)) * float(generator.uniform(0.1, 1.0))  # below 1, as a share of a video watched
        live, wide = float(generator.uniform(0, 1)), value * 0.9
        world.label(f"r{number}", 1, value, live)
        world.shadow(f"r{number}", number % 12, [1], [wide])
        rows.append((value, live))
    world.end()
    (live_figures, _), (difference,) = compare_arms(world.compare())
    values, scores = np.log1p(np.float32(rows)).T
    assert live_figures.ne.value == pytest.approx(((values - scores) ** 2).mean() / values.var(), rel=1e-5)
    assert live_figures.ne.low < live_figures.ne.value < live_figures.ne.high
    assert np.isnan(live_figures.auc.value) and live_figures.num_positives == (values > 0).sum()
    assert difference.ne.is_clear and difference.ne.value < 0
