"""Settings of parameter sync."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from monolith_py.config.features import FeatureConfig
from monolith_py.config.fields import Count, Packing, Seconds, Settings


class SyncConfig(Settings):
    """Parameter sync from the trainer to the replicas."""

    renamed: ClassVar[Mapping[str, str]] = {
        "tower_encoding": "dense_encoding",
    }

    # Least wall-clock seconds between publications of changed rows; after a pause the first change is published at once.
    sparse_interval_s: Seconds = 0.1
    # Wall-clock seconds between publications of the dense parameters.
    dense_interval_s: Seconds = 5.0
    # Encoding of rows in deltas and in a replica's memory, of features without an `encoding` of their own. int4 rounds to 16 levels between
    # the smallest and the greatest weight of a row.
    encoding: Packing = "fp16"
    # Encoding of dense parameters; the topology of sparse layers is always exact.
    dense_encoding: Literal["fp32", "fp16"] = "fp32"
    # Most rows in one delta.
    rows_per_delta: Count = 8192

    def encoding_of(self, feature: FeatureConfig) -> Packing:
        """Return the encoding of the rows of `feature`: its own, or that of all."""
        return feature.encoding or self.encoding
