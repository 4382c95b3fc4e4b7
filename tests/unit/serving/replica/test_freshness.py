"""Freshness: the age of a step's rows, row by row in the metric and step by step in the file."""

from __future__ import annotations

from prometheus_client import REGISTRY

from monolith_py.sync import StepMark
from monolith_serving.replica.freshness import Freshness


def observed(metric: str = "monolith_freshness_seconds") -> tuple[float, float]:
    """Return how many rows were observed, and the sum of their ages in seconds."""
    count, total = (REGISTRY.get_sample_value(f"{metric}_{part}") for part in ("count", "sum"))
    return count or 0.0, total or 0.0


def test_each_row_is_observed_at_the_age_of_its_step():
    count, total = observed()
    freshness = Freshness(None)
    freshness.note([StepMark(1_000, 3), StepMark(3_500, 1)], now_ms=4_000, wall_ms=4_000)
    assert observed() == (count + 4, total + 3 * 3.0 + 0.5)
    freshness.close()


def test_each_row_is_observed_at_the_age_of_the_newest_event_of_its_step_if_that_is_known():
    """The age from the step alone was half of the time from the event: serving.md, row 24."""
    before = observed("monolith_event_freshness_seconds")
    freshness = Freshness(None)
    freshness.note([StepMark(1_000, 3, event_ms=8_500), StepMark(1_000, 7), StepMark(1_000, 1, event_ms=9_500)], now_ms=0, wall_ms=9_000)
    assert observed("monolith_event_freshness_seconds") == (before[0] + 4, before[1] + 3 * 0.5)
    freshness.close()


def test_each_step_is_a_line_of_the_file_and_a_new_process_appends(tmp_path):
    path = tmp_path / "freshness"
    for now_ms in (4_000, 6_000):
        freshness = Freshness(str(path))
        freshness.note([StepMark(1_000, 3), StepMark(3_500, 1)], now_ms, now_ms)
        freshness.close()
    assert path.read_text() == "4000 3.000 3\n4000 0.500 1\n6000 5.000 3\n6000 2.500 1\n"


def test_a_step_of_a_clock_ahead_has_the_age_zero(tmp_path):
    path = tmp_path / "freshness"
    freshness = Freshness(str(path))
    freshness.note([StepMark(5_000, 2)], now_ms=4_000, wall_ms=4_000)
    freshness.close()
    assert path.read_text() == "4000 0.000 2\n"
