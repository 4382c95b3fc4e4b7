"""Settings of features, live counters and tasks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from monolith_py.config.fields import Bytes, Name, Packing, Positive, Settings, WholeSeconds, Width
from monolith_py.config.optimizer import FeatureOptimizerConfig

# Settings of a feature that have no effect while nothing is learnt: without sightings its rows would only age.
_OF_LEARNING = ("admit_after", "admission", "ttl_s", "budget_bytes", "optimizer")

# Settings of a table.
_OF_TABLE = (
    *("initializer", "init_scale", "admit_after", "admission", "sketch_bytes", "sketch_window_s", "ttl_s"),
    *("budget_bytes", "eviction", "half_life_s", "optimizer"),
)


class FeatureConfig(Settings):
    """One sparse feature and its embedding table."""

    # Name of the feature, its table and its column in requests and examples.
    name: Name
    # Origin of its fids: the user or item id of the request, stored features of the user or item, the context of the request, or the
    # request's own features of each candidate, such as its position.
    source: Literal["user_id", "item_id", "user", "item", "context", "candidate"]
    # Weights of a row. The model takes weights that narrower features lack as zeros.
    dim: Annotated[int, Field(ge=4, le=1024, multiple_of=4)] = 16
    # Reduction of the rows of a bag: their sum, their mean (it also counts fids without a row), or the rows of the first `length` fids side
    # by side, for sequences.
    pooling: Literal["sum", "mean", "first"] = "sum"
    # Number of fids that pooling = "first" takes; the others get rows, too, which learn nothing.
    length: Annotated[int, Field(ge=0, le=256)] = 0
    # Sequences, pooling = "first": the feature whose row weighs each of the `length` rows; the model reads their weighted sum (DIN, Zhou et
    # al. 2018). Without it the model reads the rows side by side.
    attend_to: Name | None = None
    # Outputs of the hidden layers that give a row its weight, from both rows, their difference and their product.
    attention: tuple[Width, ...] = (32,)
    # Distribution of the start values of a row.
    initializer: Literal["zeros", "constant", "uniform", "normal", "xavier"] = "uniform"
    # Value of "constant", half the width of "uniform", standard deviation of "normal", gain of "xavier".
    init_scale: Annotated[float, Field(ge=0, le=1e6)] = 0.01
    # Sightings of a fid before it gets a row.
    admit_after: Annotated[int, Field(ge=1, le=65535)] = 1
    # Method of counting sightings; `monolith_py.table.Admission` describes each.
    admission: Literal["count", "sketch", "proportional", "geometric"] = "count"
    # Memory of the counts of admission = "sketch", in bytes; 4 MiB if left out.
    sketch_bytes: Annotated[int, Field(ge=64, le=1 << 40)] | None = None
    # Window of the counts of admission = "sketch", in seconds of event time; a day if left out.
    sketch_window_s: WholeSeconds | None = None
    # Time to live of a row after its last sighting, in seconds of event time; without it rows do not expire.
    ttl_s: WholeSeconds | None = None
    # Memory limit of the table's rows in bytes, kept by eviction; without it the table grows without limit.
    budget_bytes: Bytes | None = None
    # Eviction order under the budget: least recently seen, least often seen, or lowest score.
    eviction: Literal["lru", "lfu", "score"] = "score"
    # Half-life of the score, in seconds of event time since the last sighting.
    half_life_s: WholeSeconds = 86_400
    # Encoding of its rows in deltas and in a replica's memory; that of `sync.encoding` if left out.
    encoding: Packing | None = None

    # Feature whose table it shares: same fids, same rows. Settings of the table are those of that feature. Replicas hold a copy for each.
    table: Name | None = None
    # Rows stay as they are: nothing is counted, inserted or updated. For rows of `monolith train --import-rows`.
    frozen: bool = False
    # Update rule of its rows, in place of optimizer.sparse.
    optimizer: FeatureOptimizerConfig | None = None

    @model_validator(mode="after")
    def _check_what_has_no_effect(self) -> FeatureConfig:
        for needs, names in (
            ("admission = 'sketch'", ("sketch_bytes", "sketch_window_s") if self.admission != "sketch" else ()),
            ("pooling = 'first'", ("length", "attend_to") if self.pooling != "first" else ()),
            ("attend_to", ("attention",) if self.attend_to is None else ()),
            ("an initializer other than 'zeros'", ("init_scale",) if self.initializer == "zeros" else ()),
            ("budget_bytes", ("eviction", "half_life_s") if self.budget_bytes is None else ()),
            ("eviction = 'score'", ("half_life_s",) if self.eviction != "score" else ()),
        ):
            for name in names:
                if not self.is_default(name):
                    raise ValueError(f"features.{self.name}.{name} must come with {needs}, got {getattr(self, name)!r} without")
        own = [name for name in _OF_TABLE if self.table is not None and not self.is_default(name)]
        if own:
            raise ValueError(
                f"features.{self.name}.{own[0]} must be left out with a table of another feature, got {getattr(self, own[0])!r}"
            )
        unused = [name for name in _OF_LEARNING if self.frozen and not self.is_default(name)]
        if unused:
            raise ValueError(f"features.{self.name}.{unused[0]} must be left out with frozen = true, got {getattr(self, unused[0])!r}")
        if self.pooling == "first" and not self.length:
            raise ValueError(f"features.{self.name}.length must be >= 1 with pooling = 'first', got {self.length}")
        return self

    @property
    def num_rows(self) -> int:
        """Return the number of rows that are looked up for a bag: one, or `length` with pooling = "first"."""
        return self.length or 1


class DenseFeatureConfig(Settings):
    """One dense feature: `dim` float32 values."""

    # Name of the feature and its column in requests and examples.
    name: Name
    # Origin of its values: stored features of the user or item, the context of the request, or the request's own features of each candidate
    # ("counter": reserved for `counters.keys`).
    source: Literal["user", "item", "context", "candidate", "counter"]
    # Number of values.
    dim: Width = 1


class CounterConfig(Settings):
    """Live counters: the joiner counts examples and positives per fid in the key-value store, as dense features of the model."""

    # Count, and add the dense features.
    enabled: bool = False
    # Sparse features with counted fids. Each adds one dense feature `counter_<key>`: log count, then the smoothed rate of each task.
    keys: tuple[Name, ...] = ()
    # Weight of the prior in a rate, in examples.
    prior_weight: Positive = 20.0
    # Rate of a fid without examples.
    prior_rate: Annotated[float, Field(gt=0, lt=1)] = 0.3

    @model_validator(mode="after")
    def _check_keys(self) -> CounterConfig:
        if self.enabled and not self.keys:
            raise ValueError("counters.keys must name a feature with counters.enabled, got ()")
        return self


class TaskConfig(Settings):
    """One task of the model: whether an action happens, its value, or the strongest of several kinds of action."""

    # Name of the task, in examples, scores and metrics; those of the classes of a multiclass task are "name.class".
    name: Name
    # Label: 1 if the action happens; its value, such as a watch time; or which of `classes` happens.
    kind: Literal["binary", "regression", "multiclass"] = "binary"
    # Kind of action behind the label. Regression takes the greatest of its values of a candidate, within 0.05 %, and 0 without one above 0.
    # The name of the task if left out.
    action: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    # Multiclass only: kinds of action from the weakest to the strongest. An example is of the strongest that happened, or of none of them;
    # the scores are the probabilities of the classes, and that of none is what they lack to 1.
    classes: tuple[Name, ...] = ()
    # Regression only: what the model predicts, the logarithm of 1 + value or the value itself. The score is a value, never below 0.
    scale: Literal["log1p", "value"] = "log1p"
    # Regression only: loss of a prediction on that scale.
    loss: Literal["squared", "huber"] = "squared"
    # Distance on that scale from which on loss = "huber" is linear.
    huber_delta: Positive = 1.0
    # Factor of the task's loss.
    weight: Positive = 1.0

    @model_validator(mode="after")
    def _check_kind(self) -> TaskConfig:
        if self.kind == "multiclass" and len(set(self.classes)) < max(2, len(self.classes)):
            raise ValueError(f"tasks.{self.name}.classes must be two or more different kinds of action, got {list(self.classes)}")
        for needs, names, there in (
            ("kind = 'multiclass'", ("classes",), self.kind == "multiclass"),
            ("another kind than 'multiclass'", ("action",), self.kind != "multiclass"),
            ("kind = 'regression'", ("scale", "loss"), self.kind == "regression"),
            ("loss = 'huber'", ("huber_delta",), self.loss == "huber"),
        ):
            for name in names:
                if not there and not self.is_default(name):
                    raise ValueError(f"tasks.{self.name}.{name} must come with {needs}, got {getattr(self, name)!r} without")
        return self

    @property
    def outputs(self) -> tuple[str, ...]:
        """Return the names of the task's labels and scores: its own, or one for each class."""
        return tuple(f"{self.name}.{one}" for one in self.classes) or (self.name,)

    @property
    def actions(self) -> tuple[str, ...]:
        """Return the kind of action behind each label."""
        return self.classes or (self.action or self.name,)
