"""Findings and report: the report shows the measured values and names every broken promise."""

from __future__ import annotations

import argparse
import base64
import io
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from rich.console import Console

from monolith_demo.driver.demo import KUAIRAND, outcome_of
from monolith_demo.driver.job_files import Services, write_job_files
from monolith_demo.driver.run import _report
from monolith_demo.report.arms import ArmFindings, RollbackFindings
from monolith_demo.report.findings import FROZEN, LINEAR, LIVE, VIDEO_RATE, Findings
from monolith_demo.report.ledger import Ledger
from monolith_demo.report.measures import Quality, quality
from monolith_demo.report.page import Contents, Surroundings, print_report, write_html
from monolith_demo.report.provenance import Provenance
from monolith_demo.report.tables import tables
from monolith_demo.report.towers import DENSE, SPARSE, TowerPass
from monolith_py.table import TableStats
from monolith_py.training import auc
from monolith_streaming.compare import ArmFigures, Difference, Estimate

NUM_HISTORY, NUM_LIVE = 6000, 4000


def towers() -> dict[str, TowerPass]:
    """Return passes with a sparse tower slightly worse than the dense one in long_view."""
    aucs = {SPARSE: (0.735, 0.74), DENSE: (0.736, 0.74)}
    shapes = {SPARSE: (0.2, 31_000, 44), DENSE: (1.0, 155_000, 0)}
    return {
        name: TowerPass(
            {task: Quality(auc, 0.88, 1.0) for task, auc in zip(("long_view", "click"), of, strict=True)}, *shapes[name], 50_000.0
        )
        for name, of in aucs.items()
    }


@pytest.fixture
def found() -> Findings:
    """Findings of a good run: the live replica is best and no record is lost."""
    generator = np.random.default_rng(0)
    labels = {task: generator.random(NUM_LIVE) < 0.3 for task in ("long_view", "click")}
    noise = {LIVE: 0.3, FROZEN: 0.4, LINEAR: 0.5, VIDEO_RATE: 0.6}
    return Findings(
        days=np.repeat([11, 12, 13, 14], NUM_LIVE // 4),
        labels=labels,
        predictions={
            task: {model: np.clip(0.3 * of + generator.uniform(0, spread, NUM_LIVE), 0.01, 0.99) for model, spread in noise.items()}
            for task, of in labels.items()
        },
        freshness_s=np.array([0.5, 3.0, 1.0]),
        freshness_rows=np.array([600.0, 10.0, 390.0]),
        rank_s=np.linspace(0.001, 0.101, NUM_LIVE),
        history_examples_per_s=12_345.0,
        live_examples_per_s=200.0,
        live_s=20.0,
        table_stats={"user_id": TableStats(2000, 0, 2010, 0, 10, 0, 5_000_000, 4096), "tab": TableStats(5, 0, 5, 0, 0, 0, 1_000_000, 64)},
        ledger=Ledger(
            impressions=NUM_HISTORY + NUM_LIVE,
            actions=9000,
            examples=NUM_HISTORY + NUM_LIVE,
            retractions=7,
            distinct=NUM_HISTORY + NUM_LIVE + 7,
            deltas=40,
            delta_bytes=2_500_000,
            dead_letters=0,
        ),
        trained=NUM_HISTORY + NUM_LIVE + 7,
        history_impressions=NUM_HISTORY,
        num_versions=33,
        towers=towers(),
        took_s={"live": 20.0},
    )


def test_a_run_in_which_all_went_well_has_no_broken_promise(found: Findings) -> None:
    assert found.broken_promises() == []


@pytest.mark.parametrize(
    ("changes", "promise"),
    [
        ({"impressions": 9999}, "impressions logged must be 10000 (history and live), got 9999"),
        ({"examples": 10_001, "distinct": 10_008}, "examples joined must be 10000, one for each impression, got 10001"),
        ({"distinct": 10_006}, "examples must be distinct, got 10006 of 10007"),
        ({"trained": 10_008}, "examples trained must be all 10007 joined, got 10008"),
        ({"dead_letters": 1}, "dead letters must be 0, got 1"),
    ],
)
def test_what_was_lost_doubled_or_refused_is_told(found: Findings, changes: dict[str, int], promise: str) -> None:
    trained = changes.pop("trained", found.trained)
    ledger = replace(found.ledger, **changes)
    trained = ledger.examples + ledger.retractions if trained == found.trained else trained
    assert replace(found, ledger=ledger, trained=trained).broken_promises() == [promise]


def test_figures_are_the_measures_of_all_days(found: Findings) -> None:
    figures = {name: (value, unit) for name, value, unit in found.figures()}
    live, frozen = (auc(found.labels["long_view"], found.predictions["long_view"][model]) for model in (LIVE, FROZEN))
    assert figures["demo.auc_live"] == (live, "auc")
    assert figures["demo.auc_gain_live_vs_frozen"] == (pytest.approx(live - frozen), "auc")
    click = found.predictions["click"][LIVE]
    assert figures["demo.click_auc_live"] == (auc(found.labels["click"], click), "auc")
    # 600 of 1000 rows were servable within 0.5 s, 990 within 1 s.
    assert (figures["demo.freshness_p50_s"], figures["demo.freshness_p99_s"]) == ((0.5, "s"), (1.0, "s"))
    assert figures["demo.rank_p50_ms"] == (pytest.approx(51.0), "ms")
    assert figures["demo.rank_p99_ms"] == (pytest.approx(100.0), "ms")


def test_the_quality_of_a_day_is_that_of_its_impressions(found: Findings) -> None:
    by_day = found.by_day("click")
    assert list(by_day) == [11, 12, 13, 14]
    of_day = slice(NUM_LIVE // 2, NUM_LIVE * 3 // 4)
    assert by_day[13][LIVE] == quality(found.labels["click"][of_day], found.predictions["click"][LIVE][of_day])


def contents(found: Findings) -> Contents:
    """Return the contents of the report."""
    made: Contents = outcome_of(found, counters=False).contents
    return made


def headline_gain(found: Findings) -> str:
    """Recompute the gain of the headline."""
    live, frozen = (auc(found.labels["long_view"], found.predictions["long_view"][model]) for model in (LIVE, FROZEN))
    return f"{live - frozen:+.4f}"


def write_page(found: Findings, folder: Path, *, notes: Sequence[str] = (), commands: Sequence[str] = ()) -> str:
    """Return the text of the page."""
    path = folder / "report.html"
    write_html(contents(found), Surroundings(Provenance("2026-11-29 08:00 UTC", "abc123", "A CPU, 2 CPUs"), notes, commands), path)
    return path.read_text()


def printed(found: Findings, width: int) -> str:
    """Return the report printed on a terminal of `width` columns."""
    console = Console(file=io.StringIO(), width=width)
    print_report(contents(found), Provenance("2026-11-29 08:00 UTC", None, "A CPU, 2 CPUs"), console)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_the_page_begins_with_the_answer_its_figures_and_its_provenance(found: Findings, tmp_path: Path) -> None:
    page = write_page(found, tmp_path)
    assert f"<h1>Online learning was worth {headline_gain(found)} AUC (long_view)</h1>" in page
    assert "<b>0.50 s</b>freshness, p50" in page and "<b>1.00 s</b>freshness, p99" in page
    assert "2026-11-29 08:00 UTC. Commit abc123. A CPU, 2 CPUs" in page
    assert page.index("<h1>") < page.index("0.50 s") < page.index("2026-11-29") < page.index("<img") < page.index("<table>")


def test_the_page_has_every_table_note_command_and_plot_and_needs_no_other_file(found: Findings, tmp_path: Path) -> None:
    page = write_page(found, tmp_path, notes=["a note: 1 < 2"], commands=["monolith rank --user 1 && true"])
    assert page.startswith("<!doctype html>")
    assert "<p>a note: 1 &lt; 2</p>" in page and "monolith rank --user 1 &amp;&amp; true" in page
    captions = re.findall(r"<caption>(.*?)</caption>", page)
    assert captions == [table.title for table in tables(found)]
    assert len(captions) == len(found.labels) + 5
    for model in (LIVE, FROZEN, LINEAR, VIDEO_RATE):
        assert page.count(f"<td>{model}</td>") == 2
    assert f"<td>{found.overall('click')[LIVE].auc:.4f}</td>" in page
    assert "<td>dead letters</td><td>0</td>" in page and "<td>user_id</td><td>2,000</td>" in page
    assert re.findall(r'(?:src|href)=["\'](?!data:)', page) == []


@pytest.mark.parametrize("word", ["NE", "filtered", "swaps", "retractions", "freshness", "calibration"])
def test_a_note_explains_each_word_of_the_trade(found: Findings, tmp_path: Path, word: str) -> None:
    notes = re.findall(r"<p class='note'>(.*?)</p>", write_page(found, tmp_path))
    assert len(notes) == len(tables(found)) - 1
    assert any(re.search(rf"(?:^|\. ){word}(?: \([^)]*\))?: ", note) for note in notes)


def test_each_of_the_four_plots_has_its_curve(found: Findings, tmp_path: Path) -> None:
    images = re.findall(r"data:image/png;base64,([^']*)'", write_page(found, tmp_path))
    assert len(images) == 4
    for encoded in images:
        pixels = imread(io.BytesIO(base64.b64decode(encoded)), format="png")[:, :, :3]  # (height, width, 3)
        coloured = np.ptp(pixels, axis=2) > 0.2  # text and frames are grey
        assert np.flatnonzero(coloured.any(axis=0)).size > pixels.shape[1] // 2  # the curve spans the plot


def test_a_run_without_freshness_still_has_a_page(found: Findings, tmp_path: Path) -> None:
    nothing = replace(found, freshness_s=np.array([]), freshness_rows=np.array([]))
    assert "nan s" in write_page(nothing, tmp_path)


def test_a_terminal_of_80_columns_shows_every_word_of_the_tables(found: Findings) -> None:
    lines = printed(found, 80).splitlines()
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    assert "\u2026" not in text
    words = {word for table in tables(found) for row in (table.columns, *table.rows) for cell in row for word in cell.split()}
    assert words <= set(text.split())


def test_the_terminal_shows_the_answer_first(found: Findings) -> None:
    assert printed(found, 80).strip().startswith(f"Online learning was worth {headline_gain(found)} AUC (long_view)\n")


@pytest.mark.parametrize("dead_letters", [0, 3])
def test_a_broken_promise_is_printed_and_so_are_figures_and_the_way_on(found: Findings, tmp_path: Path, dead_letters: int) -> None:
    folder = tmp_path / "demo-1"
    folder.mkdir()
    files = write_job_files(folder, Services("sqlite:///log", "sqlite:///kv.db", 1, 2, 3, 4, 5))
    console = Console(file=io.StringIO(), width=200)
    options = argparse.Namespace(kafka=False, keep=False)
    broken = replace(found, ledger=replace(found.ledger, dead_letters=dead_letters))
    _report(outcome_of(broken, counters=False), KUAIRAND, options, files, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    lines = text.splitlines()
    assert [line for line in lines if line.startswith("BROKEN")] == (["BROKEN: dead letters must be 0, got 3"] if dead_letters else [])
    figures = dict(re.findall(r"^figure (\S+) (\S+) \S+$", text, re.MULTILINE))
    assert figures.keys() == {name for name, _, _ in found.figures()}
    assert float(figures["demo.freshness_p99_s"]) == 1.0
    assert any(f"--config {files.live}" in line and " rank " in line for line in lines)
    assert (tmp_path / "demo-report.html").read_text() == (folder / "report.html").read_text()


def test_the_report_has_the_arms_and_the_rollback(found: Findings, tmp_path: Path) -> None:
    estimate = Estimate(-0.01, -0.02, -0.005)
    figures = [ArmFigures(arm, "click", 10, 20, 5.0, 0.25, estimate, estimate, estimate) for arm in ("live", "shadow (shadow)")]
    differences = [Difference("shadow (shadow)", "live", "click", True, 20, estimate, estimate, estimate)]
    rollback = RollbackFindings("step-7", 12_345, "3.9", "4.2", 5.5, 99_999)
    contents = outcome_of(replace(found, arms=ArmFindings(figures, differences, rollback)), counters=False).contents
    text = {cell for table in contents.tables for row in table.rows for cell in row}
    assert {"12,345", "5.5 s", "4.2", "-0.0200 to -0.0050"} <= text
    assert any(table.note == "shadow (shadow) is better than live in click." for table in contents.tables)


def test_the_towers_are_compared_with_their_density(found: Findings) -> None:
    text = printed(found, 100)
    assert re.search(r"sparse .* 0\.7350 .* 20\.0% .* 31,000", text)
    assert re.search(r"difference .* -0\.0010 .* \+0\.0000 .* 20\.0%", text)
    assert "has 20% of the weights; its AUC differs by -0.0010 for long_view" in " ".join(text.split())
    figures = {name: value for name, value, _ in found.figures()}
    assert figures["demo.tower_density"] == 0.2
    assert figures["demo.tower_auc_vs_dense"] == pytest.approx(-0.001)
