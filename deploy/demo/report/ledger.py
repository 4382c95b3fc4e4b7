"""Ledger of a run: records counted in the log itself, freshness file, metrics of a process."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from monolith_py.config import JobConfig
from monolith_py.data.examples import ExampleBatch, ExampleKind
from monolith_py.io import Log, Record
from monolith_py.io.codec import decode_examples
from monolith_py.io.log.topics import Topics

_RECORDS_AT_ONCE = 500
_SCRAPE_TIMEOUT_S = 2.0


@dataclass(frozen=True)
class Ledger:
    """Counts of the whole run."""

    impressions: int
    actions: int
    examples: int  # without retractions
    retractions: int
    distinct: int  # distinct examples (request id, item) and retractions (request id, item, tasks)
    deltas: int
    delta_bytes: int
    dead_letters: int


def read_ledger(log: Log, job: JobConfig) -> Ledger:
    """Count the records of the job's topics."""
    topics = Topics.of(job.log)
    known: set[tuple[str, int, tuple[str, ...] | None]] = set()
    num_examples = num_retractions = 0
    for record in _records(log, topics.examples):
        batch = decode_examples(record.value)
        retractions = int((batch.kinds == ExampleKind.RETRACTION).sum())
        num_retractions += retractions
        num_examples += len(batch) - retractions
        known.update(_identities(batch))
    delta_sizes = [len(record.value) for record in _records(log, topics.updates)]
    return Ledger(
        impressions=sum(1 for _ in _records(log, topics.impressions)),
        actions=sum(1 for _ in _records(log, topics.actions)),
        examples=num_examples,
        retractions=num_retractions,
        distinct=len(known),
        deltas=len(delta_sizes),
        delta_bytes=sum(delta_sizes),
        dead_letters=sum(1 for _ in _records(log, topics.dead_letters)),
    )


def _identities(batch: ExampleBatch) -> Iterator[tuple[str, int, tuple[str, ...] | None]]:
    """Yield the identity of each example: request id and item; of a retraction also the tasks that turned positive."""
    for row, (request_id, item_id, kind) in enumerate(zip(batch.request_ids, batch.item_ids.tolist(), batch.kinds.tolist(), strict=True)):
        tasks = tuple(task for task, labels in batch.labels.items() if labels[row] > 0) if kind == ExampleKind.RETRACTION else None
        yield request_id, item_id, tasks


def read_freshness(path: Path, since_ms: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return age in seconds and number of rows of each training step since `since_ms` (wall clock): float64 (steps,) each."""
    lines = np.loadtxt(path, ndmin=2) if path.exists() and path.stat().st_size else np.zeros((0, 3))
    recent = lines[lines[:, 0] - lines[:, 1] * 1000 >= since_ms]
    return recent[:, 1], recent[:, 2]


def scrape(port: int, metric: str) -> float | None:
    """Return the sum of `metric` over its labels from a process's Prometheus port; None if the process does not answer."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=_SCRAPE_TIMEOUT_S) as answer:
            lines = answer.read().decode().splitlines()
    except OSError:
        return None
    values = [line.rsplit(" ", 1) for line in lines if line.startswith((f"{metric} ", f"{metric}{{"))]
    return sum(float(value) for _, value in values)


def _records(log: Log, topic: str) -> Iterator[Record]:
    """Yield the current records of the topic."""
    for partition in range(log.num_partitions(topic)):
        offset, end = log.start_offset(topic, partition), log.end_offset(topic, partition)
        while offset < end:
            # The end offset may be beyond the last record: Kafka's control records have offsets, too.
            records = log.read(topic, partition, offset, _RECORDS_AT_ONCE)
            if not records:
                break
            yield from records
            offset = records[-1].offset + 1
