"""Ledger of a run: counts from the log, freshness file, metrics of a process."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, Counter, start_http_server

from monolith_demo.report.ledger import Ledger, read_freshness, read_ledger, scrape
from monolith_py.config import JobConfig
from monolith_py.data.columns import FeatureColumns
from monolith_py.data.examples import ExampleBatch, ExampleKind
from monolith_py.io import Log
from monolith_py.io.codec import encode_examples
from monolith_py.io.log.topics import create_topics


def examples(*rows: tuple[str, int, ExampleKind]) -> bytes:
    num = len(rows)
    return encode_examples(
        ExampleBatch(
            tuple(request_id for request_id, _, _ in rows),
            np.array([item for _, item, _ in rows], np.int64),
            np.full(num, 1_700_000_000_000),
            np.array([kind for _, _, kind in rows], np.uint8),
            np.ones(num, np.float32),
            {"click": np.ones(num, np.float32)},
            FeatureColumns(num),
        )
    )


def test_records_and_examples_of_all_partitions_are_counted(make_demo_job: Callable[..., JobConfig], make_log: Callable[..., Log]) -> None:
    job, log = make_demo_job(partitions=2), make_log()
    create_topics(log, job.log)
    labelled, late = ExampleKind.LABELLED, ExampleKind.RETRACTION
    log.append("impressions", [b"i"] * 700, time_ms=1)
    log.append("impressions", [b"i"] * 3, time_ms=1, partition=1)
    log.append("actions", [b"a"] * 501, time_ms=1, partition=1)
    log.append("examples", [examples(("r1", 1, labelled), ("r1", 2, labelled)), examples(("r1", 1, late))], time_ms=1)
    log.append("examples", [examples(("r2", 1, labelled), ("r2", 1, labelled))], time_ms=1, partition=1)
    log.append("updates", [b"1234", b"123"], time_ms=1)
    log.append("dead_letters", [b"x"], time_ms=1)
    assert read_ledger(log, job) == Ledger(
        impressions=703, actions=501, examples=4, retractions=1, distinct=4, deltas=2, delta_bytes=7, dead_letters=1
    )


def test_a_log_without_records_counts_nothing(make_demo_job: Callable[..., JobConfig], make_log: Callable[..., Log]) -> None:
    job, log = make_demo_job(), make_log()
    create_topics(log, job.log)
    assert read_ledger(log, job) == Ledger(0, 0, 0, 0, 0, 0, 0, 0)


def test_freshness_is_of_the_steps_since_the_moment_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "freshness.log"
    # Servable at 9,000, 10,400 and 12,000 ms, trained at 8,000, 9,900 and 10,000 ms.
    path.write_text("9000 1.0 7\n10400 0.5 5\n12000 2.0 3\n")
    ages_s, rows = read_freshness(path, 10_000)
    assert (ages_s.tolist(), rows.tolist()) == ([2.0], [3.0])
    assert read_freshness(path, 8_000)[1].tolist() == [7.0, 5.0, 3.0]


@pytest.mark.parametrize("content", [None, ""])
def test_no_freshness_file_or_an_empty_one_has_no_steps(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "freshness.log"
    if content is not None:
        path.write_text(content)
    ages_s, rows = read_freshness(path, 0)
    assert (ages_s.tolist(), rows.tolist()) == ([], [])


def test_a_metric_is_summed_over_its_labels_and_no_other_metric() -> None:
    registry = CollectorRegistry()
    joined = Counter("joined", "Joined", ["kind"], registry=registry)
    joined.labels(kind="labelled").inc(40)
    joined.labels(kind="retraction").inc(2)
    Counter("joined_total_of_another", "Begins alike", registry=registry).inc(500)
    Counter("plain", "Without labels", registry=registry).inc(3)
    server, thread = start_http_server(0, "127.0.0.1", registry)
    try:
        port = server.server_port
        assert scrape(port, "joined_total") == 42
        assert scrape(port, "plain_total") == 3
        assert scrape(port, "absent_total") == 0
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_process_that_does_not_answer_has_no_metric() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        assert scrape(probe.getsockname()[1], "joined_total") is None
