"""Freshness: the age of a step's rows, row by row in the metric and step by step in the file."""

from __future__ import annotations

from prometheus_client import REGISTRY

from monolith_py.sync import StepMark
from monolith_serving.replica.freshness import Freshness


def observed() -> tuple[float, float]:
    """Return how many rows were observed, and the sum of their ages in seconds."""
    count, total = (REGISTRY.get_sample_value(f"monolith_freshness_seconds_{part}") for part in ("count", "sum"))
    return count or 0.0, total or 0.0


def test_each_row_is_observed_at_the_age_of_its_step():
    count, total = observed()
    freshness = Freshness(None)
    freshness.note([StepMark(1_000, 3), StepMark(3_500, 1)], now_ms=4_000)
    assert observed() == (count + 4, total + 3 * 3.0 + 0.5)
    freshness.close()


def test_each_step_is_a_line_of_the_file_and_a_new_process_appends(tmp_path):
    path = tmp_path / "freshness"
    for now_ms in (4_000, 6_000):
        freshness = Freshness(str(path))
        freshness.note([StepMark(1_000, 3), StepMark(3_500, 1)], now_ms)
        freshness.close()
    assert path.read_text() == "4000 3.000 3\n4000 0.500 1\n6000 5.000 3\n6000 2.500 1\n"


def test_a_step_of_a_clock_ahead_has_the_age_zero(tmp_path):
    path = tmp_path / "freshness"
    freshness = Freshness(str(path))
    freshness.note([StepMark(5_000, 2)], now_ms=4_000)
    freshness.close()
    assert path.read_text() == "4000 0.000 2\n"
