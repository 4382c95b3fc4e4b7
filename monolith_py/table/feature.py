"""A sparse feature of `EmbeddingBags`: pooling of its bags, and settings of its table."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

from monolith_py.config import FeatureConfig
from monolith_py.table.admission import EXACT_COUNT, Admission, MemoryBudget
from monolith_py.table.arguments import whole
from monolith_py.table.embedding_table import EmbeddingTable
from monolith_py.table.optimizers import Optimizer
from monolith_py.table.slices import Encoding, Initializer, Slice


@dataclass(frozen=True)
class Feature:
    """A sparse feature: pooling of its bags, and settings of its table as in `EmbeddingTable`.

    `pooling` is "sum", "mean" (over all fids of the bag, also those without a row), or "first": the rows of the first `length` fids side
    by side, padded with zeros. A feature with `table` shares the table of the feature of that name; its own table settings have no effect.
    `name` is also that of the table's file: it must not hold "/" or a zero byte, and must not be empty, "." or "..".
    """

    name: str
    dim: int = 16
    pooling: str = "sum"
    length: int = 0
    table: str | None = None
    slices: tuple[Slice, ...] = ()
    initializer: Initializer = "uniform"
    init_scale: float = 0.01
    admit_after: int = 1
    admission: Admission = EXACT_COUNT
    ttl_s: int | None = None
    budget: MemoryBudget | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or self.name in ("", ".", "..") or "/" in self.name or "\0" in self.name:
            raise ValueError(f"name of a feature must be a file name, without '/', got {self.name!r}")
        if self.pooling not in ("sum", "mean", "first"):
            raise ValueError(f"pooling of feature {self.name!r} must be 'sum', 'mean' or 'first', got {self.pooling!r}")
        if (self.pooling == "first") != (whole(f"length of feature {self.name!r}", self.length) > 0):
            raise ValueError(f"length of feature {self.name!r} must be > 0 for pooling 'first' and 0 for others, got {self.length!r}")

    @property
    def uses_time(self) -> bool:
        """Return whether rows or counts of the feature's table age by event time."""
        counts_in_window = self.admission.kind == "sketch" and self.admit_after > 1
        return self.table is None and (self.ttl_s is not None or self.budget is not None or counts_in_window)

    def make_table(self, optimizer: Optimizer, seed: int) -> EmbeddingTable:
        """Return an empty table of the feature's settings."""
        return EmbeddingTable(
            self.dim,
            None if self.slices else optimizer,
            slices=self.slices,
            name=self.name,
            initializer=self.initializer,
            init_scale=self.init_scale,
            admit_after=self.admit_after,
            admission=self.admission,
            ttl_s=self.ttl_s,
            budget=self.budget,
            seed=seed,
        )


def table_seed(seed: int, name: str) -> int:
    """Return the seed of the table `name` in a model of `seed`, in [0, 2^64): other tables have no part in it.

    >>> table_seed(1, "user_id") - table_seed(0, "user_id")
    1
    """
    return (seed + int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little")) % (1 << 64)


def feature_from(config: FeatureConfig, optimizer: Optimizer, encoding: Encoding) -> Feature:
    """Return the feature of a job's settings; drains pack its rows in its own encoding, or in `encoding`."""
    sketch = {"sketch_bytes": config.sketch_bytes, "window_s": config.sketch_window_s}
    admission = Admission(config.admission, **{name: value for name, value in sketch.items() if value is not None})
    budget = MemoryBudget(config.budget_bytes, config.eviction, config.half_life_s) if config.budget_bytes else None
    return Feature(
        config.name,
        config.dim,
        config.pooling,
        config.length,
        config.table,
        slices=(Slice("weights", config.dim, optimizer, config.initializer, config.init_scale, config.encoding or encoding),),
        admit_after=config.admit_after,
        admission=admission,
        ttl_s=config.ttl_s,
        budget=budget,
    )
