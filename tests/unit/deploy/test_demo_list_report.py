"""Findings and report of the list-wise demo: measured values, the ledger, the bars."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from monolith_demo.driver.list_demo import LIST, outcome_of
from monolith_demo.report.ledger import Ledger
from monolith_demo.report.list_findings import (
    DAILY,
    FROZEN,
    HOURLY,
    ITEM_RATE,
    LINEAR,
    LIVE,
    ORACLE,
    REPLICAS,
    ListFindings,
)
from monolith_demo.report.page import Surroundings, print_report, write_html
from monolith_demo.report.provenance import Provenance
from monolith_py.training import auc

NUM_LIVE, LENGTH = 480, 10


@pytest.fixture
def found() -> ListFindings:
    """Findings of a good run: the fresher a replica, the better, and no record is lost."""
    generator = np.random.default_rng(0)
    num = NUM_LIVE * LENGTH
    truth = generator.uniform(0.01, 0.3, num)
    labels = generator.random(num) < truth
    noise = {LIVE: 0.02, HOURLY: 0.1, DAILY: 0.2, FROZEN: 0.4, LINEAR: 0.1, ITEM_RATE: 0.5, ORACLE: 0.0}
    predictions = {model: np.clip(truth + generator.normal(0, spread, num), 0.001, 0.999) for model, spread in noise.items()}
    return ListFindings(
        hours=np.repeat(np.arange(24), num // 24),
        requests=np.repeat(np.arange(NUM_LIVE), LENGTH),
        labels=labels,
        predictions=predictions,
        freshness_s=np.array([0.5, 3.0, 1.0]),
        freshness_rows=np.array([600.0, 10.0, 390.0]),
        rank_s=np.linspace(0.001, 0.101, NUM_LIVE),
        num_versions={LIVE: 200, HOURLY: 24, DAILY: 2, FROZEN: 1},
        ledger=Ledger(
            impressions=1000, actions=900, examples=10_000, retractions=3, distinct=10_003, deltas=40, delta_bytes=9, dead_letters=0
        ),
        trained=10_003,
        num_requests=1000,
        num_candidates=10_000,
        num_clicks=900,
        history_examples_per_s=12_345.0,
        live_s=240.0,
    )


def test_a_run_in_which_all_went_well_has_no_broken_promise(found: ListFindings) -> None:
    assert found.broken_promises() == []


@pytest.mark.parametrize(
    ("changes", "promise"),
    [
        ({"impressions": 999}, "impressions logged must be 1000, one for each request, got 999"),
        ({"actions": 901}, "actions logged must be 900, one for each click, got 901"),
        ({"examples": 9999, "distinct": 10_002}, "examples joined must be 10000, one for each candidate, got 9999"),
        ({"distinct": 10_002}, "examples must be distinct, got 10002 of 10003"),
        ({"dead_letters": 1}, "dead letters must be 0, got 1"),
    ],
)
def test_a_record_lost_doubled_or_refused_is_named(found: ListFindings, changes: dict[str, int], promise: str) -> None:
    ledger = replace(found.ledger, **changes)
    assert replace(found, ledger=ledger, trained=ledger.examples + ledger.retractions).broken_promises() == [promise]


def test_examples_that_were_not_trained_once_are_named(found: ListFindings) -> None:
    assert replace(found, trained=10_004).broken_promises() == ["examples trained must be all 10003 joined, got 10004"]


def test_a_bar_not_met_is_named(found: ListFindings) -> None:
    same = replace(found, predictions={**found.predictions, FROZEN: found.predictions[LIVE]})
    assert same.broken_promises() == ["AUC of live - frozen must be >= 0.02, got 0.0000"]
    high = replace(found, predictions={**found.predictions, LIVE: found.predictions[LIVE] * 1.5})
    (promise,) = high.broken_promises()
    assert re.fullmatch(r"calibration of live must be in 0\.9 to 1\.1, got 1\.[45]\d\d", promise)


def test_figures_are_the_measures_of_the_day(found: ListFindings) -> None:
    figures = {name: (value, unit) for name, value, unit in found.figures()}
    aucs = {model: auc(found.labels, values) for model, values in found.predictions.items()}
    for model, value in aucs.items():
        assert figures[f"demo_list.auc_{model.replace(' ', '_')}"] == (pytest.approx(value), "auc")
    for model in (HOURLY, DAILY, FROZEN):
        assert figures[f"demo_list.auc_gain_live_vs_{model}"] == (pytest.approx(aucs[LIVE] - aucs[model]), "auc")
    calibration = found.predictions[LIVE].mean() / found.labels.mean()
    assert figures["demo_list.calibration_live"] == (pytest.approx(calibration), "ratio")
    assert (figures["demo_list.freshness_p50_s"], figures["demo_list.freshness_p99_s"]) == ((0.5, "s"), (1.0, "s"))
    assert figures["demo_list.rank_p50_ms"] == (pytest.approx(51.0), "ms")
    assert figures["demo_list.live_examples_per_s"] == (NUM_LIVE * LENGTH / 240.0, "examples/s")


def test_the_auc_of_a_part_is_that_of_its_hours(found: ListFindings) -> None:
    parts = found.aucs_by_part(6)
    quarter = slice(NUM_LIVE * LENGTH // 4, NUM_LIVE * LENGTH // 2)
    assert [len(of) for of in parts.values()] == [4] * 7
    assert parts[DAILY][1] == pytest.approx(auc(found.labels[quarter], found.predictions[DAILY][quarter]))


def test_the_page_has_the_answer_every_model_and_every_plot(found: ListFindings, tmp_path: Path) -> None:
    outcome, path = outcome_of(found), tmp_path / "report.html"
    write_html(outcome.contents, Surroundings(Provenance("2026-11-29 08:00 UTC", "abc123", "A CPU"), outcome.notes, []), path)
    page = path.read_text()
    assert f"<h1>Online learning was worth {found.gain(FROZEN):+.4f} AUC of clicks on news-like lists</h1>" in page
    for model in found.predictions:
        assert f"<td>{model}</td><td>{found.auc(model):.4f}</td>" in page
    assert page.count("data:image/png;base64,") == 4
    assert "<td>retractions joined</td><td>3</td>" in page


def test_a_terminal_of_80_columns_shows_every_word(found: ListFindings) -> None:
    console = Console(file=io.StringIO(), width=80)
    outcome = outcome_of(found)
    print_report(outcome.contents, Provenance("2026-11-29 08:00 UTC", None, "A CPU"), console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, text.splitlines())) <= 80 and "\u2026" not in text
    words = {word for table in outcome.contents.tables for row in (table.columns, *table.rows) for cell in row for word in cell.split()}
    assert words <= set(text.split())


def test_the_demo_s_replicas_are_those_of_the_report() -> None:
    assert (LIVE, *LIST.batch, FROZEN) == REPLICAS
