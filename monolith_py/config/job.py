"""Settings of a job: one strict TOML file, shared by all its processes, parsed into frozen models.

Defaults live here and nowhere else. Unknown keys, wrong types and values out of range fail with the field, the value and the rule.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from monolith_py.config.fields import Config, Count, Name, NotNegative, Positive, Share
from monolith_py.config.sparsity import SparsityConfig
from monolith_py.errors import ConfigError


class LogConfig(Config):
    """Where the streams live: `sqlite:///path/log.db` or `kafka://host:port[,host:port]`."""

    url: str = Field(pattern=r"^(sqlite:///.+|kafka://.+)$")
    partitions: Count = 1
    topic_prefix: str = Field(default="", pattern=r"^[A-Za-z0-9._-]*$")


class KvConfig(Config):
    """Where features and waiting impressions live: `memory:`, `sqlite:///path/kv.db` or `redis://host:port/db`."""

    url: str = Field(pattern=r"^(memory:|sqlite:///.+|rediss?://.+|unix://.+)$")


class SparseOptimizerConfig(Config):
    """How rows of the embedding tables are updated; `monolith_py.table` documents each rule. None: as the rule has it."""

    kind: Literal[
        "sgd",
        "momentum",
        "adagrad",
        "rowwise_adagrad",
        "adadelta",
        "rmsprop",
        "adam",
        "amsgrad",
        "adamw",
        "ftrl",
        "group_adagrad",
        "group_ftrl",
    ] = "adagrad"
    lr: Positive | None = None
    weight_decay: NotNegative | None = None
    clip_norm: NotNegative | None = None
    eps: Positive | None = None
    initial_accumulator: NotNegative | None = None
    momentum: Share | None = None
    nesterov: bool | None = None
    rho: Share | None = None
    beta1: Share | None = None
    beta2: Share | None = None
    l1: NotNegative | None = None
    l2: NotNegative | None = None
    beta: NotNegative | None = None


class FeatureConfig(Config):
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
    # Memory that the table's rows may take; which go first is `monolith_py.table.Budget`'s to say.
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


class DenseFeatureConfig(Config):
    """One dense feature: `dim` float32 values, from stored features, the request, or the live counters of `CounterConfig`."""

    name: Name
    source: Literal["user", "item", "context", "counter"]
    dim: Count = 1


class CounterConfig(Config):
    """Live counters: per fid of each key, the log count and the smoothed rate of each task, kept in Kv by the joiner."""

    enabled: bool = False
    # Features whose fids are counted; each gives one dense feature `counter_<key>` of 1 + number of tasks values.
    keys: tuple[Name, ...] = ()
    prior_weight: Positive = 20.0
    prior_rate: Annotated[float, Field(gt=0, lt=1)] = 0.3


class TaskConfig(Config):
    """One binary label and the kind of action that makes it 1."""

    name: Name
    action: str = Field(min_length=1)
    weight: Positive = 1.0


class ModelConfig(Config):
    """What stands between the pooled rows and the logits."""

    kind: Literal["deepfm", "dlrm"] = "deepfm"
    tower: tuple[Count, ...] = (256, 128, 64)
    # DLRM only: layers that bring the dense features to the width of a row; the last must be the rows' dim.
    bottom: tuple[Count, ...] = ()
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    precision: Literal["fp32", "bf16", "auto"] = "auto"
    sparsity: SparsityConfig = SparsityConfig()


class DenseOptimizerConfig(Config):
    """What learns the towers. The step size is `lr * batch / reference_batch`: small online batches take small steps
    (linear scaling, Goyal et al. 2017, section 2.1; measured for this use: a tower trained at batch 16 with the rate of 256 gets worse)."""

    kind: Literal["adam", "adagrad", "sgd"] = "adam"
    lr: Positive = 1e-3
    reference_batch: Count = 256
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    eps: Positive = 1e-8
    clip_norm: Positive | None = None

    @model_validator(mode="after")
    def _check_what_has_no_effect(self) -> DenseOptimizerConfig:
        idle = {"adam": (), "adagrad": ("beta1", "beta2"), "sgd": ("beta1", "beta2", "eps")}[self.kind]
        for name in idle:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"optimizer.dense.{name} must come with kind = 'adam', got {getattr(self, name)!r} without")
        return self


class OptimizerConfig(Config):
    """Learning rules of rows and towers."""

    sparse: SparseOptimizerConfig = SparseOptimizerConfig()
    dense: DenseOptimizerConfig = DenseOptimizerConfig()


class JoinerConfig(Config):
    """How impressions and actions become examples. All times are event time."""

    # An impression waits this long for its actions.
    window_s: Positive = 600.0
    # Kinds of action that end the wait at once: every label is known then.
    closing_actions: tuple[str, ...] = ()
    # What an action does that comes after its impression was emitted.
    late: Literal["retract", "drop"] = "retract"
    # How long after the window an emitted impression is remembered for late actions.
    late_window_s: Annotated[float, Field(ge=0)] = 3600.0
    # Share of the examples without any positive label that is kept; the trainer corrects the logit for it.
    negative_rate: Annotated[float, Field(gt=0, le=1)] = 1.0
    # How far event times may run out of order between the topics and within them.
    out_of_order_s: Annotated[float, Field(ge=0)] = 5.0
    # With no new record for this long (wall clock), the watermark moves on by the wall clock.
    idle_s: Positive = 5.0
    max_records: Count = 2000
    examples_per_record: Annotated[int, Field(ge=1, le=4096)] = 256
    # Wall-clock wait before a record with fewer examples is written.
    linger_s: Annotated[float, Field(ge=0)] = 0.1


class TrainerConfig(Config):
    """The online trainer."""

    batch_size: Count = 256
    # Wall-clock wait before a smaller batch is trained.
    max_wait_s: Annotated[float, Field(ge=0)] = 0.1
    checkpoint_dir: str = Field(min_length=1)
    checkpoint_interval_s: Positive = 60.0
    checkpoints_kept: Count = 3
    # Event-time seconds between sweeps for expired rows.
    evict_interval_s: Positive = 3600.0
    # Threads of the table and of torch; 0 takes all cores.
    num_threads: Annotated[int, Field(ge=0)] = 0


class SyncConfig(Config):
    """Parameter sync from the trainer to the replicas, wall-clock intervals."""

    sparse_interval_s: Positive = 1.0
    dense_interval_s: Positive = 5.0
    encoding: Literal["fp32", "fp16", "int8"] = "fp16"
    # Weights of the towers; which atoms of sparse layers live always goes exactly.
    tower_encoding: Literal["fp32", "fp16"] = "fp32"
    rows_per_delta: Count = 8192


class ServingConfig(Config):
    """One ranking replica."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 50051
    # Off: the replica stays at the checkpoint it started from.
    follow_updates: bool = True
    log_impressions: bool = True
    num_workers: Count = 16
    # Candidates scored together at most, over all requests that wait.
    max_batch: Count = 4096
    max_candidates: Count = 2000
    default_deadline_ms: Count = 200
    feature_cache_s: Annotated[float, Field(ge=0)] = 30.0
    feature_cache_entries: Count = 200_000
    # Threads of torch; 0 takes all cores.
    num_threads: Annotated[int, Field(ge=0)] = 1
    device: Literal["auto", "cpu", "cuda"] = "auto"
    # How often the replica looks for a first checkpoint while it has none.
    checkpoint_poll_s: Positive = 0.5
    # The service reports NOT_SERVING once its newest delta is older than this; 0 never.
    max_staleness_s: Annotated[float, Field(ge=0)] = 0.0
    # File that gets a line "time_ms age_s rows" for each training step whose rows became servable.
    freshness_log: str | None = None
    # File that gets the port once the replica can rank (port 0 takes a free one).
    port_file: str | None = None


class ObserveConfig(Config):
    """Logging and metrics of every process."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    # Prometheus port of each process; 0 serves no metrics.
    joiner_port: Annotated[int, Field(ge=0, le=65535)] = 0
    trainer_port: Annotated[int, Field(ge=0, le=65535)] = 0
    serving_port: Annotated[int, Field(ge=0, le=65535)] = 0


class JobConfig(Config):
    """Everything a job's processes are told: one TOML file."""

    name: Name
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] = 0
    log: LogConfig
    kv: KvConfig
    features: Annotated[tuple[FeatureConfig, ...], Field(min_length=1)]
    dense_features: tuple[DenseFeatureConfig, ...] = ()
    counters: CounterConfig = CounterConfig()
    tasks: Annotated[tuple[TaskConfig, ...], Field(min_length=1)]
    model: ModelConfig = ModelConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    joiner: JoinerConfig = JoinerConfig()
    trainer: TrainerConfig
    sync: SyncConfig = SyncConfig()
    serving: ServingConfig = ServingConfig()
    observe: ObserveConfig = ObserveConfig()

    @model_validator(mode="after")
    def _check_across_sections(self) -> JobConfig:
        counters = [f"counter_{key}" for key in self.counters.keys]
        for section, names in (
            ("features", [*(f.name for f in self.features), *(f.name for f in self.dense_features), *counters]),
            ("tasks", [task.name for task in self.tasks]),
        ):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"{section}.name must be unique, got {twice} more than once")
        dims = {feature.dim for feature in self.features}
        if len(dims) > 1:
            raise ValueError(f"features.dim must be the same for all features of a {self.model.kind} model, got {sorted(dims)}")
        if self.model.kind == "dlrm" and self.model.bottom and self.model.bottom[-1] not in dims:
            raise ValueError(f"model.bottom must end with features.dim {sorted(dims)}, got {list(self.model.bottom)}")
        if self.model.sparsity.grow == "momentum" and self.optimizer.dense.kind != "adam":
            raise ValueError(
                f"optimizer.dense.kind must be 'adam' with model.sparsity.grow = 'momentum', got {self.optimizer.dense.kind!r}"
            )
        stray = sorted(feature.name for feature in self.dense_features if feature.source == "counter")
        if stray:
            raise ValueError(f"dense_features.source must be user, item or context: counter features come from counters.keys, got {stray}")
        unknown = sorted(set(self.counters.keys) - {feature.name for feature in self.features})
        if unknown:
            raise ValueError(f"counters.keys must name features, got {unknown}")
        return self


def parse_job(settings: Mapping[str, Any]) -> JobConfig:
    """Return the job that `settings` (a parsed TOML document) describe.

    Raises:
        ConfigError: a field is unknown, missing, of the wrong type or out of its range; the message names each.
    """
    try:
        return JobConfig.model_validate(_lists_to_tuples(settings))
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(one) for one in error.errors() if not _follows(one))) from None


def load_job(path: str | Path) -> JobConfig:
    """Return the job described by the TOML file at `path`.

    Raises:
        ConfigError: the file is absent, is no TOML, or breaks a rule of the settings.
    """
    try:
        document = tomllib.loads(Path(path).read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from None
    try:
        return parse_job(document)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _lists_to_tuples(value: Any) -> Any:
    """Return `value` with every TOML array as a tuple, which is what strict frozen models hold."""
    if isinstance(value, Mapping):
        return {key: _lists_to_tuples(item) for key, item in value.items()}
    if isinstance(value, list):
        return tuple(_lists_to_tuples(item) for item in value)
    return value


def _follows(error: Any) -> bool:
    """Return whether an array is said to be too short because its items, of which the other errors tell, were left out."""
    return error["type"] == "too_short" and bool(error["input"])


def _explain(error: Any) -> str:
    field = ".".join(str(part) for part in error["loc"]) or "job"
    if error["type"] == "extra_forbidden":
        return f"{field} is not a setting, got {error['input']!r}"
    if error["type"] == "missing":
        return f"{field} is required"
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    return f"{field}: {error['msg']}, got {error['input']!r}"
