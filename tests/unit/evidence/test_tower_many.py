"""The evidence on many streams: its streams are what they say, a second run only adds passes, and bars go by the right rivals."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from monolith_py.config import ModelConfig

Evidence = Callable[[str], ModuleType]


def result(evidence: Evidence, seed: int, auc: float, ms: float = 1.0) -> Any:
    resampled = np.array([auc, auc + 0.01], np.float32)
    return evidence("tower_many_report").Result(seed, (auc,), 0.9, resampled, 1000, 0.2, 7, ms, 2.0)


def test_every_variant_is_a_model_and_the_preset_is_as_it_is(evidence: Evidence) -> None:
    variants = evidence("tower_many_variants").VARIANTS
    for name, variant in variants.items():
        sparsity = ModelConfig.model_validate(variant.model(208, 600), strict=False).sparsity
        assert (sparsity.preset == "dense") == (not variant.sparsity), name
    assert set(variants["dsl_online 80"].sparsity) == {"preset", "ramp", "cosine_steps", "update_interval"}


def test_items_of_the_late_stream_say_nothing_before_their_time(evidence: Evidence) -> None:
    stream = evidence("tower_many_streams").late_stream(0, 40_000, begins=0.5, num_items=50)
    items = stream.features["item"].fids
    assert stream.spans == (("warm", 20_000, 40_000),)

    def spread(span: slice) -> float:
        """Return the variance of the items' rates over what chance gives."""
        counts, clicks = np.bincount(items[span])[1:], np.bincount(items[span], stream.labels[span])[1:]
        rate = clicks.sum() / counts.sum()
        return float(np.mean((clicks - counts * rate) ** 2 / (counts * rate * (1 - rate))))

    assert spread(slice(0, 20_000)) < 2 < 10 < spread(slice(20_000, 40_000))


def test_candidates_of_requests_become_one_stream(evidence: Evidence) -> None:
    requests = evidence("online_data").generated_stream(0, 60)
    stream = evidence("tower_many_streams").flat(requests, "click", 0.02, 64, None)
    assert len(stream) == len(requests.items) and (np.diff(stream.times_s) >= 0).all()
    np.testing.assert_array_equal(stream.features["item_id"].fids, requests.items)
    np.testing.assert_array_equal(stream.features["user_id"].fids, requests.users[requests.request_of])
    np.testing.assert_array_equal(stream.labels, requests.labels["click"])


def test_a_second_run_only_adds(evidence: Evidence, tmp_path: Path) -> None:
    program, sources = evidence("tower_many"), evidence("tower_many_streams").SOURCES[:2]
    entry = {"stream": sources[0].name, "variant": "dense", "seed": 0, "aucs": [0.7], "ne": 0.9, "resampled": [0.7, 0.71]}
    entry |= {"live_weights": 10, "density": 1.0, "num_moves": 0, "steady_ms": 1.0, "whole_s": 2.0}
    (tmp_path / "kept").write_text(json.dumps(entry) + "\n")
    known = program.read_results(tmp_path / "kept")
    tasks = program.tasks_of(sources, ["dense", "gmp 80"], 2, known)
    assert len(tasks) == len(set(tasks)) == 7 and (sources[0].name, "dense", 0) not in tasks
    assert [seed for _, _, seed in tasks] == sorted(seed for _, _, seed in tasks)
    assert program.read_results(tmp_path / "none") == {}


def test_streams_whose_data_are_not_there_are_left_out(evidence: Evidence, tmp_path: Path) -> None:
    sources = evidence("tower_many_streams").SOURCES
    at_hand = evidence("tower_many").is_at_hand
    without = [source.name for source in sources if at_hand(source, None)]
    assert without == ["kuairand", "late", "kuairand_ids", "late_ids", "lists"]
    (tmp_path / "mind_5k.parquet").touch()
    assert [source.name for source in sources if at_hand(source, tmp_path)] == [*without[:2], "mind", *without[2:]]


@pytest.mark.parametrize(("gap", "passes"), [(-0.0009, True), (-0.0011, False)])
def test_bars_compare_with_dense_and_the_best_of_the_small_and_the_fast(
    evidence: Evidence, tmp_path: Path, gap: float, passes: bool
) -> None:
    report = evidence("tower_many_report")
    source = replace(evidence("tower_many_streams").SOURCES[1], name="x")
    aucs = {"dense": (0.7, 4.0), "dsl_online 80": (0.7 + gap, 2.0), "gmp 80": (0.69, 1.5)}
    aucs |= {"small dense x1 80": (0.695, 1.0), "small dense x4 80": (0.698, 1.0), "dense, one layer of 128": (0.71, 3.0)}
    results = {("x", name): {seed: result(evidence, seed, auc + 0.0001 * seed, ms) for seed in (0, 1)} for name, (auc, ms) in aucs.items()}
    report.write_report(tmp_path / "x.md", results, [source], "core portable.")
    lines = {line.split()[1]: line for line in (tmp_path / "x.md").read_text().splitlines() if line.startswith("figure")}
    assert lines["tower.x.80_vs_dense"].endswith("pass)" if passes else "FAIL)")
    assert "(small dense x4 80)" in lines["tower.x.80_vs_small_dense"] and "(small dense x4 80)" in lines["tower.x.80_vs_dense_as_fast"]
    assert lines["tower.x.80_step_time"] == "figure tower.x.80_step_time 0.50 of dense's (bar: <= 0.5, pass)"
    assert "tower.x.80_vs_static" not in lines  # not run
    assert f"| dsl_online 80 | 2 | 1,000 | {0.7 + gap + 0.00005:.4f} | 0.9000 | {1e4 * gap:+.1f} ± 0.0 |" in (tmp_path / "x.md").read_text()
