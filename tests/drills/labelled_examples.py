"""Examples of a drill as a joiner writes them: users below `LIKING` like every item; labels may be flipped."""

from __future__ import annotations

import numpy as np
from surroundings import Deployment, now_ms

from monolith_py.data.columns import FeatureColumns, SparseColumn
from monolith_py.data.examples import ExampleBatch
from monolith_py.io.codec import encode_examples

ROWS = 64
NUM_USERS, LIKING = 40, 12
_NUM_ITEMS = 40


class LabelledExamples:
    """Appends records of 64 examples to the partitions in turn; the same seed appends the same examples."""

    def __init__(self, deployment: Deployment, seed: int = 0, num_items: int = _NUM_ITEMS) -> None:
        self._deployment, self._num_items = deployment, num_items
        self._generator = np.random.default_rng(seed)
        self.num_records = 0

    def append(self, num_records: int = 1, *, flipped: bool = False) -> None:
        """Append records, the likings of the users as they are or flipped."""
        for _ in range(num_records):
            value, time_ms = self._record(flipped), now_ms()
            partition = self.num_records % self._deployment.job.log.partitions
            self._deployment.log.append(self._deployment.topics.examples, [value], time_ms=time_ms, partition=partition)
            self.num_records += 1

    def _record(self, flipped: bool) -> bytes:
        users, items = self._generator.integers(0, NUM_USERS, ROWS), self._generator.integers(0, self._num_items, ROWS)
        likes = self._generator.random(ROWS) < np.where(users < LIKING, 0.9, 0.05)
        ones = np.ones(ROWS, np.int32)
        columns = FeatureColumns(ROWS, {"user_id": SparseColumn(users, ones), "video_id": SparseColumn(items, ones)})
        labels = {"click": (likes != flipped).astype(np.float32)}
        ids = tuple(f"e{self.num_records}-{row}" for row in range(ROWS))
        times_ms = np.full(ROWS, now_ms())
        return encode_examples(ExampleBatch(ids, items, times_ms, np.zeros(ROWS, np.uint8), np.ones(ROWS, np.float32), labels, columns))
