"""Layout of a model: the order and meaning of its inputs and outputs."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any
from zlib import crc32

from monolith_py.config import FeatureConfig, JobConfig
from monolith_py.data.schema import Schema


@dataclass(frozen=True)
class Layout:
    """Names of the inputs and outputs of a model, in order. Dense parameters of another layout have another meaning.

    >>> one = Layout("deepfm", (("user_id", 16, "sum"), ("item_id", 16, "sum")), (("age", ("0",)),), ("click",))
    >>> Layout.from_document(one.document()) == one
    True
    """

    kind: str  # of the model
    features: tuple[tuple[str, int, str], ...]  # name, dim, pooling with its length
    dense_features: tuple[tuple[str, tuple[str, ...]], ...]  # name, and the name of each value
    tasks: tuple[str, ...]  # with their kind, unless it is binary

    @staticmethod
    def of(job: JobConfig) -> Layout:
        """Return the layout of a job's model."""
        schema = Schema.of(job)
        counter_values = ("count", *schema.tasks)
        return Layout(
            job.model.kind,
            tuple((feature.name, feature.dim, _pooling(feature)) for feature in schema.features),
            tuple(
                (feature.name, counter_values if feature.source == "counter" else tuple(map(str, range(feature.dim))))
                for feature in schema.dense_features
            ),
            tuple(
                name if task.kind == "binary" else f"{name} {task.kind}{f' {task.scale}' if task.kind == 'regression' else ''}"
                for task in job.tasks
                for name in task.outputs
            ),
        )

    def rows(self) -> list[tuple[Hashable, int]]:
        """Return a name and the dim of each pooled row, in the order of the model input."""
        rows: list[tuple[Hashable, int]] = []
        for name, dim, pooling in self.features:
            kind, _, length = pooling.partition(" ")
            rows += [((name, place), dim) for place in range(int(length))] if kind == "first" else [(name, dim)]
        return rows

    def document(self) -> dict[str, Any]:
        """Return the layout as a JSON document."""
        return asdict(self)

    @staticmethod
    def from_document(document: Mapping[str, Any]) -> Layout:
        """Return the layout of a `document`."""
        return Layout(
            str(document["kind"]),
            tuple((str(name), int(dim), str(pooling)) for name, dim, pooling in document["features"]),
            tuple((str(name), tuple(map(str, values))) for name, values in document["dense_features"]),
            tuple(map(str, document["tasks"])),
        )

    @cached_property
    def _text(self) -> str:
        return json.dumps(self.document(), sort_keys=True, separators=(",", ":"))

    def identity(self, model_id: str) -> int:
        """Return the CRC-32 of the layout and the id of the model, the base of fingerprints of its dense parameters."""
        return crc32(f"{self._text}|{model_id}".encode())

    def difference(self, other: Layout) -> str:
        """Return the first part in which `other` differs, with both values; "" if they are equal."""
        for part in ("kind", "features", "dense_features", "tasks"):
            own, its = getattr(self, part), getattr(other, part)
            if own != its:
                return f"{part} must be {own!r}, got {its!r}"
        return ""


def _pooling(feature: FeatureConfig) -> str:
    if feature.attend_to is not None:
        return f"attends to {feature.attend_to}"
    return f"{feature.pooling} {feature.length}" if feature.length else feature.pooling
