"""The evidence on online learning: streams as the joiner sees them, and controls that know no label before it is known."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from monolith_py.io import open_log
from monolith_streaming.backtest import BacktestOptions, Timeline

ONLINE = Path(__file__).parents[2] / "evidence" / "online.py"
HOUR_MS = 3600 * 1000
Evidence = Callable[[str], ModuleType]


@pytest.fixture(scope="module")
def data(evidence: Evidence) -> ModuleType:
    return evidence("online_data")


@pytest.fixture
def stream(data: ModuleType) -> Any:
    """Return 60 requests of 1 to 4 candidates, four minutes apart, with a click on every third candidate or so."""
    generator = np.random.default_rng(4)
    lengths = generator.integers(1, 5, 60)
    num = int(lengths.sum())
    items = np.concatenate([generator.permutation(9)[:length] for length in lengths])
    lists = data.Lists(
        times_ms=1_700_000_000_000 + 240_000 * np.arange(60),
        users=generator.integers(0, 12, 60),
        lengths=lengths,
        items=items,
        shared={"hour": np.arange(60) % 24},
        candidates={"age": items % 3},
        clicks=generator.random(num) < 0.35,
    )
    made = data.list_stream("mind", "made", lists, seed=1)
    return dataclasses.replace(made, is_terminal=generator.random(num) < 0.2)


def slices_of(evidence: Evidence, stream: Any, folder: Path, emit: str = "candidate") -> list[Any]:
    joiner = {"emit": emit, "terminal_actions": ("play_end",)}
    job = stream.job(0, str(folder), joiner=joiner)
    evidence("online_log").write_log(job, stream, range(len(stream)))
    log = open_log(job.log.url)
    slices = list(Timeline(job, log, BacktestOptions(start_ms=int(stream.times_ms[stream.live_from]), slice_s=0.001)))
    log.close()
    return slices


def test_the_joiner_finds_labels_and_times_of_a_written_stream(evidence: Evidence, stream: Any, tmp_path: Path) -> None:
    slices = slices_of(evidence, stream, tmp_path)
    ids = [stream.request_id(int(request)) for request in stream.request_of]
    row_of = {key: row for row, key in enumerate(zip(ids, stream.items.tolist(), strict=True))}
    num = 0
    for one in slices:
        for index in range(0 if one.examples is None else len(one.examples)):
            row = row_of[one.examples.request_ids[index], int(one.examples.item_ids[index])]
            assert one.examples.labels["click"][index] == stream.labels["click"][row]
            assert one.start_ms == stream.known_ms[row]
            num += 1
    assert num == len(stream.items)


def test_examples_have_the_features_that_controls_and_frozen_models_get(evidence: Evidence, stream: Any, tmp_path: Path) -> None:
    served = stream.with_counters(("item_id",))
    shown = [one.candidates for one in slices_of(evidence, served, tmp_path) if one.candidates is not None]
    want = served.features(range(len(served)))
    for name, column in want.sparse.items():
        np.testing.assert_array_equal(np.concatenate([one.features.sparse[name].fids for one in shown]), column.fids)
    got = np.concatenate([one.features.dense["counter_item_id"] for one in shown])
    np.testing.assert_array_equal(got, want.dense["counter_item_id"])


def test_counts_are_those_of_examples_known_before_the_request(evidence: Evidence, stream: Any) -> None:
    asked_ms, known_ms, clicks = stream.times_ms[stream.request_of], stream.known_ms, stream.labels["click"]
    got = evidence("online_streams").known_counts(stream.items, clicks[:, None], asked_ms, known_ms)
    for row, item in enumerate(stream.items):
        known = (stream.items == item) & (known_ms < asked_ms[row])
        assert got[row].tolist() == [known.sum(), clicks[known].sum()]


def test_a_stream_cut_short_is_its_first_requests(stream: Any) -> None:
    head = stream.head(20)
    assert (len(head), head.live_from) == (20, 13)
    np.testing.assert_array_equal(head.known_ms, stream.known_ms[: len(head.items)])
    np.testing.assert_array_equal(head.features(range(20)).sparse["age"].fids, stream.candidates["age"].fids[: len(head.items)])


@pytest.mark.parametrize("name", ["popularity", "vowpal"])
def test_a_control_knows_no_label_before_it_is_known(evidence: Evidence, stream: Any, name: str) -> None:
    controls = evidence("online_controls")
    control = getattr(controls, name) if name == "popularity" else lambda stream: controls.vowpal(stream, "")
    first = int(stream.starts[stream.live_from])
    asked_ms = stream.times_ms[stream.request_of]
    middle = first + (len(stream.items) - first) // 2
    # With a terminal action for every candidate, the times at which labels are known do not depend on the labels.
    everything_ends = dataclasses.replace(stream, is_terminal=np.ones(len(stream.items), bool))
    turned = everything_ends.labels["click"] ^ (everything_ends.known_ms >= asked_ms[middle])
    before = control(everything_ends)
    after = control(dataclasses.replace(everything_ends, labels={"click": turned}))
    same = asked_ms[first:] <= asked_ms[middle]
    np.testing.assert_array_equal(before[same], after[same])
    assert (before[~same] != after[~same]).any()


def test_the_rate_of_an_item_is_smoothed_by_that_of_all(evidence: Evidence, stream: Any) -> None:
    got = evidence("online_controls").popularity(stream)
    row = len(stream.items) - 1
    clicks, known = stream.labels["click"], stream.known_ms < stream.times_ms[-1]
    own = known & (stream.items == stream.items[row])
    prior = (clicks[known].sum() + 1) / (known.sum() + 2)
    assert got[-1] == pytest.approx((clicks[own].sum() + 20 * prior) / (own.sum() + 20))


def test_mind_is_sorted_by_time_and_knows_the_first_day_of_an_article(data: ModuleType) -> None:
    rows = [
        {"user": "U2", "time": "11/10/2019 1:00:00 AM", "impressions": "N1-0 N2-1"},
        {"user": "U1", "time": "11/9/2019 11:00:00 PM", "impressions": "N1-1"},
    ]
    stream = data.mind_of(pa.Table.from_pylist(rows), seed=0)
    assert np.diff(stream.times_ms).tolist() == [2 * HOUR_MS]
    assert stream.labels["click"].tolist() == [True, False, True]
    assert stream.candidates["age"].fids.tolist() == [0, 1, 0]
    assert stream.shared["hour"].fids.tolist() == [23, 1]
    assert stream.items[0] == stream.items[1] != stream.items[2]


def test_open_bandit_takes_the_affinity_to_the_shown_item(data: ModuleType) -> None:
    rows = []
    for second, item in ((2, 7), (1, 3)):
        row: dict[str, Any] = {
            "timestamp": f"2019-11-24 00:00:0{second}.500000+00:00",
            "item_id": item,
            "position": second,
            "click": item == 7,
        }
        row |= {f"user_feature_{number}": f"u{number}" for number in range(4)}
        rows.append(row | {f"user-item_affinity_{number}": float(number == 7) for number in range(80)})
    stream = data.obd_of(pa.Table.from_pylist(rows), seed=0)
    assert stream.items.tolist() == [3, 7]
    assert stream.labels["click"].tolist() == [False, True]
    assert stream.candidates["affinity"].fids.tolist() == [0, 1]
    assert np.diff(stream.times_ms).tolist() == [1000]


def test_a_positive_is_younger_when_labels_are_learnt_as_they_come(evidence: Evidence, stream: Any) -> None:
    ages = evidence("online_passes").label_ages_s(dataclasses.replace(stream, is_terminal=np.zeros(len(stream.items), bool)))
    assert 0 < ages["candidate"] < ages["request"] <= 600


def test_no_two_variants_have_one_name(evidence: Evidence) -> None:
    variants = evidence("online_variants")
    names = [variant.name for variant in (*variants.CLAIMS, *variants.RECIPES)]
    assert len(set(names)) == len(names)


def test_a_difference_is_paired_by_seed(evidence: Evidence) -> None:
    findings, passes = evidence("online_findings"), evidence("online_passes")
    figures = evidence("online_passes").Figures

    def scored(auc: float) -> Any:
        return passes.Scored({"click": figures(9, auc, auc, 1.0, 1.0, 0.1)}, np.array([auc, auc + 0.01]), (auc,))

    outcomes = [
        passes.StreamOutcome(
            seed, 3, 9, 1, {("default", "live"): scored(0.6 + seed), ("default", "frozen"): scored(0.5 + seed)}, {}, 0.7, {}
        )
        for seed in range(3)
    ]
    gap = findings.difference(outcomes, findings.arm("default"), findings.arm("default", "frozen"))
    assert gap.mean == pytest.approx(0.1)
    assert gap.over_seeds == pytest.approx(0.0, abs=1e-9)
    assert gap.over_groups == pytest.approx(0.0, abs=1e-6)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_quick_run_writes_a_row_for_everything_that_is_compared(evidence: Evidence, tmp_path: Path) -> None:
    command = [sys.executable, str(ONLINE), "--quick", "--folder", str(tmp_path), "--streams", "kuairand", "generated"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    text = (tmp_path / "ONLINE.md").read_text()
    variants = evidence("online_variants")
    for variant in variants.CLAIMS:
        assert f"| {variant.label}: live |" in text
    for recipe in variants.RECIPES:
        assert f"| {recipe.label} |" in text
    assert "nan" not in text.lower()
    assert sorted(re.findall(r"!\[.+\]\((.+)\)", text)) == ["online_generated.png", "online_kuairand.png"]
    names = ("live_minus_frozen", "service_vs_even", "joined_vs_replayed", "calibration", "live_minus_vw")
    assert re.findall(r"^figure online\.(\w+)\.(\w+) \S+ \w+$", ran.stdout, re.MULTILINE) == [
        (name, stream) for name in names for stream in ("kuairand", "generated")
    ]
