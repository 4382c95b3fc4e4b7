"""Settings of features, live counters and tasks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from monolith_py.config.fields import Count, Name, NotNegative, Positive, Settings


class FeatureConfig(Settings):
    """One sparse feature and its embedding table."""

    name: Name
    # Where its fids come from: the request's user or item id, the stored features of either, or the request itself.
    source: Literal["user_id", "item_id", "user", "item", "context"]
    dim: Annotated[int, Field(ge=4, le=1024, multiple_of=4)] = 16
    pooling: Literal["sum", "mean"] = "sum"
    initializer: Literal["zeros", "constant", "uniform", "normal", "xavier"] = "uniform"
    init_scale: NotNegative = 0.01
    # Which fids get a row, and after how many sightings: `monolith_py.table.Admission` says how each kind counts.
    admit_after: Annotated[int, Field(ge=1, le=65535)] = 1
    admission: Literal["count", "sketch", "proportional", "geometric"] = "count"
    sketch_bytes: Annotated[int, Field(ge=64)] | None = None
    sketch_window_s: Count | None = None
    # Event-time seconds after which a row that was not seen goes.
    ttl_s: Count | None = None
    # Memory that the table's rows may take; which go first is `monolith_py.table.MemoryBudget`'s to say.
    budget_bytes: Count | None = None
    eviction: Literal["lru", "lfu", "score"] = "score"
    half_life_s: Count = 86_400

    @model_validator(mode="after")
    def _check_what_has_no_effect(self) -> FeatureConfig:
        for needs, names in (
            ("admission = 'sketch'", ("sketch_bytes", "sketch_window_s") if self.admission != "sketch" else ()),
            ("an initializer other than 'zeros'", ("init_scale",) if self.initializer == "zeros" else ()),
            ("budget_bytes", ("eviction", "half_life_s") if self.budget_bytes is None else ()),
            ("eviction = 'score'", ("half_life_s",) if self.eviction != "score" else ()),
        ):
            for name in names:
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"features.{self.name}.{name} must come with {needs}, got {getattr(self, name)!r} without")
        return self


class DenseFeatureConfig(Settings):
    """One dense feature: `dim` float32 values, from stored features, the request, or the live counters of `CounterConfig`."""

    name: Name
    source: Literal["user", "item", "context", "counter"]
    dim: Count = 1


class CounterConfig(Settings):
    """Live counters: per fid of each key, the log count and the smoothed rate of each task, kept in Kv by the joiner."""

    enabled: bool = False
    # Features whose fids are counted; each gives one dense feature `counter_<key>` of 1 + number of tasks values.
    keys: tuple[Name, ...] = ()
    prior_weight: Positive = 20.0
    prior_rate: Annotated[float, Field(gt=0, lt=1)] = 0.3


class TaskConfig(Settings):
    """One binary label and the kind of action that makes it 1."""

    name: Name
    action: str = Field(min_length=1)
    weight: Positive = 1.0
