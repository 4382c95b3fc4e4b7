"""Emissions of the state machine to example batches. Letters: B examples."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np

from monolith_py.data.columns import FeatureColumns, Int64Array
from monolith_py.data.examples import ExampleBatch
from monolith_py.io.codec.picked_columns import flat_features, picked_features
from monolith_py.io.codec.wire_patterns import FlatColumns, WirePatterns
from monolith_streaming.joiner.rules import Emission, Rules
from monolith_streaming.joiner.waiting import Waiting

Emitted = Sequence[tuple[Waiting, Emission]]


def examples_of(emitted: Emitted, rules: Rules, layouts: WirePatterns) -> ExampleBatch:
    """Return the examples of these emissions, in order; none of them may be a negative that was sampled away."""
    emissions = [emission for _, emission in emitted]
    requests = [waiting.request for waiting, _ in emitted]
    return ExampleBatch(
        request_ids=tuple(request.request_id for request in requests),
        item_ids=np.array([request.item_ids[emission.row] for request, emission in zip(requests, emissions, strict=True)], np.int64),
        times_ms=np.array([request.time_ms for request in requests], np.int64),
        kinds=np.array([emission.kind for emission in emissions], np.uint8),
        sample_rates=np.array([rules.sample_rate(emission) for emission in emissions], np.float32),
        labels={task: _bit(emissions, index).astype(np.float32) for index, task in enumerate(rules.tasks)},
        features=features_of(emitted, layouts),
    )


def features_of(emitted: Emitted, layouts: WirePatterns, only: Sequence[str] | None = None) -> FeatureColumns:
    """Return the features of the emitted candidates, in order; of the features in `only` where it is given."""
    flats: list[FlatColumns] = []
    for waiting, _ in emitted:
        flat = waiting.flat_columns(layouts)
        if flat is None or (flats and flat.names != flats[0].names):
            break
        flats.append(flat)
    else:
        return flat_features(flats, only)
    grouped = ((waiting, [emission.row for _, emission in group]) for waiting, group in groupby(emitted, key=lambda pair: pair[0]))
    return picked_features(((waiting.impression(), rows) for waiting, rows in grouped), layouts.widths, only)


def increments_of(emitted: Emitted, num_tasks: int) -> Int64Array:
    """Return what each emission adds to the counters of its fids: int64 (B, 1 + tasks), examples and positives."""
    emissions = [emission for _, emission in emitted]
    columns = [np.array([emission.is_first for emission in emissions], np.int64)]
    columns += [_bit(emissions, index) for index in range(num_tasks)]
    return np.stack(columns, axis=1)


def _bit(emissions: Sequence[Emission], index: int) -> Int64Array:
    return np.array([emission.labels >> index & 1 for emission in emissions], np.int64)
