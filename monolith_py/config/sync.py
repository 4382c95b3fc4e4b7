"""Settings of parameter sync."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from monolith_py.config.fields import Count, Positive, Settings


class SyncConfig(Settings):
    """Parameter sync from the trainer to the replicas, wall-clock intervals."""

    renamed: ClassVar[Mapping[str, str]] = {
        "tower_encoding": "dense_encoding",
    }

    sparse_interval_s: Positive = 1.0
    dense_interval_s: Positive = 5.0
    encoding: Literal["fp32", "fp16", "int8"] = "fp16"
    # Weights of the dense parameters; which atoms of sparse layers live always goes exactly.
    dense_encoding: Literal["fp32", "fp16"] = "fp32"
    rows_per_delta: Count = 8192
