"""Examples from the joiner for the trainer.

Letters: B examples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from monolith_py.data.columns import FeatureColumns, FloatArray, Int64Array
from monolith_py.data.served import ServedScores


class ExampleKind(IntEnum):
    """Kind of an example."""

    LABELLED = 0  # labels of the candidate, as far as they are known
    RETRACTION = 1  # emitted before, and the tasks with label 1 here were negative then


@dataclass(frozen=True)
class ExampleBatch:
    """B examples, column-major.

    The key of an example is (request id, item, kind). A RETRACTION takes back a negative of weight 1 / `sample_rates` and has weight 1
    itself (`monolith_py.training.loss`).
    """

    request_ids: Sequence[str]  # (B,)
    item_ids: Int64Array  # (B,)
    times_ms: Int64Array  # (B,) event time of the impression
    kinds: npt.NDArray[np.uint8]  # (B,) ExampleKind
    sample_rates: FloatArray  # (B,) share kept by sampling, in (0, 1]
    labels: Mapping[str, FloatArray]  # task -> (B,), 0 or 1; of a regression a number >= 0
    features: FeatureColumns  # B rows
    served: ServedScores | None = None  # B scores at request time; None without any

    def __len__(self) -> int:
        return len(self.request_ids)

    def slice(self, start: int, stop: int) -> ExampleBatch:
        """Return examples [start, stop)."""
        return ExampleBatch(
            self.request_ids[start:stop],
            self.item_ids[start:stop],
            self.times_ms[start:stop],
            self.kinds[start:stop],
            self.sample_rates[start:stop],
            {task: values[start:stop] for task, values in self.labels.items()},
            self.features.slice(start, stop),
            self.served.slice(start, stop) if self.served else None,
        )

    @staticmethod
    def concat(batches: Sequence[ExampleBatch]) -> ExampleBatch:
        """Return the examples of all batches in order: of the same tasks, and with one width of each dense feature."""
        first = batches[0]
        return ExampleBatch(
            tuple(request_id for batch in batches for request_id in batch.request_ids),
            np.concatenate([b.item_ids for b in batches]),
            np.concatenate([b.times_ms for b in batches]),
            np.concatenate([b.kinds for b in batches]),
            np.concatenate([b.sample_rates for b in batches]),
            {task: np.concatenate([b.labels[task] for b in batches]) for task in first.labels},
            FeatureColumns.concat([b.features for b in batches]),
            ServedScores.concat([b.served for b in batches], [len(b) for b in batches]),
        )
