"""Example batches from emissions of the state machine. Letters: B examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from monolith_py.data.columns import FeatureColumns
from monolith_py.data.examples import ExampleBatch
from monolith_py.data.served import ServedModel, ServedScores
from monolith_py.io.codec.impression_view import ImpressionView
from monolith_py.io.codec.picked_columns import pick_features
from monolith_py.io.codec.wire_patterns import WirePatterns
from monolith_streaming.joiner.request import Emission
from monolith_streaming.joiner.rules import Rules
from monolith_streaming.joiner.waiting import WaitingRequest

# A larger record is cut, unless it is one example: it must fit a topic with Kafka's own limit of 1 MiB.
MAX_RECORD_BYTES = 1_000_000
Emitted = Sequence[tuple[WaitingRequest, Emission]]
# Returns the metadata of part `index` of a step; `is_last`: no further part follows.
PartMetadata = Callable[[int, bool], Mapping[str, str]]


@dataclass(frozen=True)
class Encoding:
    """Rules and form of the examples of a job."""

    rules: Rules
    patterns: WirePatterns
    size: int  # most examples of a record


def examples_of(emitted: Emitted, rules: Rules, patterns: WirePatterns) -> ExampleBatch:
    """Return the examples of these emissions in order; negatives that were sampled away are not allowed."""
    emissions = [emission for _, emission in emitted]
    requests = [waiting.request for waiting, _ in emitted]
    bits = np.array([emission.labels for emission in emissions], np.uint64)
    return ExampleBatch(
        request_ids=tuple(request.request_id for request in requests),
        item_ids=np.array([request.item_ids[emission.row] for request, emission in zip(requests, emissions, strict=True)], np.int64),
        times_ms=np.array([request.time_ms for request in requests], np.int64),
        kinds=np.array([emission.kind for emission in emissions], np.uint8),
        sample_rates=np.array([emission.sample_rate for emission in emissions], np.float32),
        labels={task: rules.labels.values(bits, place) for place, task in enumerate(rules.tasks)},
        features=features_of(emitted, patterns),
        served=served_of(emitted, rules),
    )


class Part(NamedTuple):
    """One encoded record of a step, with the emissions [start, stop)."""

    value: bytes
    start: int
    stop: int


def features_of(emitted: Emitted, patterns: WirePatterns, only: Sequence[str] | None = None) -> FeatureColumns:
    """Return the features of the emitted candidates in order; `only` names the features to keep."""
    return pick_features([(_impression(waiting), emission.row) for waiting, emission in emitted], patterns, only)


def served_of(emitted: Emitted, rules: Rules) -> ServedScores | None:
    """Return the scores at request time of the emitted candidates, by task; None if their impressions have none."""
    tasks, numbers = rules.tasks, [width > 1 for width in rules.labels.widths]
    models: dict[ServedModel, int] = {}
    codes, rows = [], []
    for waiting, emission in emitted:
        impression = _impression(waiting)
        codes.append(models.setdefault(impression.model, len(models)))
        rows.append(impression.scores_of(emission.row, tasks, numbers))
    by_task = np.array(rows, np.float32).T  # (T, B)
    scores = {task: values for task, values in zip(tasks, by_task, strict=True) if not np.isnan(values).all()}
    return ServedScores(scores, tuple(models), np.array(codes, np.int32)) if scores else None


def _impression(waiting: WaitingRequest) -> ImpressionView:
    assert waiting.impression is not None, waiting.request.request_id
    return waiting.impression
