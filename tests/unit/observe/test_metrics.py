"""Metrics and logging: a weighted histogram equals Prometheus' own, log levels apply, a taken port is an error."""

from __future__ import annotations

import logging
import socket
import urllib.request
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY, CollectorRegistry, Histogram
from prometheus_client.metrics_core import Metric

from monolith_py.errors import ConfigError
from monolith_py.observe import serve_metrics, set_up_logging
from monolith_py.observe.metrics import WeightedHistogram

BOUNDS = (0.1, 0.5, 1, 5)


@pytest.fixture
def logging_as_it_was() -> Iterator[None]:
    root, kafka = logging.getLogger(), logging.getLogger("kafka")
    handlers, levels = list(root.handlers), (root.level, kafka.level)
    root.handlers = []  # the set-up closes those that it finds
    yield
    root.handlers = handlers
    root.setLevel(levels[0])
    kafka.setLevel(levels[1])


def samples(metrics: Iterator[Metric]) -> dict[tuple[str, float], float]:
    found = [sample for metric in metrics for sample in metric.samples if not sample.name.endswith("_created")]
    return {(sample.name, float(sample.labels.get("le", "nan").replace("nan", "-1"))): sample.value for sample in found}


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.05, 0.1, 0.3, 0.5, 1.0, 4.0, 5.0, 6.0]), st.integers(0, 9)), max_size=12))
def test_a_value_observed_n_times_at_once_counts_like_n_observations(observed: list[tuple[float, int]]) -> None:
    plain = Histogram("test_weighted", "Test", buckets=BOUNDS, registry=CollectorRegistry())
    weighted = WeightedHistogram("test_weighted", "Test", BOUNDS)
    try:
        for value, count in observed:
            weighted.observe(value, count)
            for _ in range(count):
                plain.observe(value)
        assert samples(iter(weighted.collect())) == pytest.approx(samples(iter(plain.collect())))
        assert REGISTRY.get_sample_value("test_weighted_count") == sum(count for _, count in observed)
    finally:
        REGISTRY.unregister(weighted)


@pytest.mark.usefixtures("logging_as_it_was")
def test_log_lines_of_the_level_and_above_go_to_standard_error_once(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("ERROR")
    set_up_logging("INFO")  # replaces the first
    logging.getLogger("monolith_py.test").info("at %s", "offset 3")
    logging.getLogger("monolith_py.test").debug("not shown")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.endswith(" INFO monolith_py.test: at offset 3\n")


@pytest.mark.usefixtures("logging_as_it_was")
@pytest.mark.parametrize(("level", "kafka"), [("DEBUG", logging.WARNING), ("INFO", logging.WARNING), ("ERROR", logging.ERROR)])
def test_the_kafka_client_is_never_chattier_than_a_warning(level: str, kafka: int) -> None:
    set_up_logging(level)
    assert logging.getLogger("kafka").level == kafka
    assert logging.getLogger().level == logging.getLevelNamesMapping()[level]


def test_metrics_are_served_with_the_role_of_the_process_and_a_taken_port_is_told(reserved_port: socket.socket) -> None:
    port = reserved_port.getsockname()[1]
    serve_metrics(port, "trainer")
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=120) as answer:
        text = answer.read().decode()
    assert 'monolith_process{role="trainer"} 1.0' in text
    with pytest.raises(ConfigError, match=f"observe.trainer_port must be free, got {port}: "):
        serve_metrics(port, "trainer")


def test_port_0_serves_nothing() -> None:
    serve_metrics(0, "joiner")
    assert REGISTRY.get_sample_value("monolith_process", {"role": "joiner"}) == 1
