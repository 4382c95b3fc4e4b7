"""Counters of totals that a checkpoint restores: they count what this process saw, and never fall."""

from __future__ import annotations

from prometheus_client import CollectorRegistry
from prometheus_client import Counter as PrometheusCounter

from monolith_py.observe.metrics import TotalCounters


def value(counter: PrometheusCounter) -> float:
    return next(iter(counter.collect())).samples[0].value


def test_each_call_adds_the_rise_of_the_total() -> None:
    counter, totals = PrometheusCounter("rows", "rows", registry=CollectorRegistry()), TotalCounters()
    for total in (3, 3, 10):
        totals.advance(counter, total)
    assert value(counter) == 10


def test_what_an_earlier_process_counted_is_not_counted_again() -> None:
    counter, totals = PrometheusCounter("rows", "rows", registry=CollectorRegistry()), TotalCounters()
    totals.start(counter, 100)
    totals.advance(counter, 104)
    assert value(counter) == 4


def test_a_total_that_falls_counts_nothing_and_its_next_rise_counts_from_there() -> None:
    counter, totals = PrometheusCounter("rows", "rows", registry=CollectorRegistry()), TotalCounters()
    for total in (8, 5, 6):
        totals.advance(counter, total)
    assert value(counter) == 9
