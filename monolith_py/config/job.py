"""Settings of a job: one strict TOML file, shared by all its processes, parsed into frozen models.

Defaults exist only here. An unknown key, a wrong type or a value out of range is an error with field, rule and value.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from monolith_py.config.explain import explain
from monolith_py.config.features import CounterConfig, DenseFeatureConfig, FeatureConfig, TaskConfig
from monolith_py.config.fields import Name, Settings
from monolith_py.config.model import ModelConfig
from monolith_py.config.objects import ObjectsConfig
from monolith_py.config.observe import ObserveConfig
from monolith_py.config.optimizer import OptimizerConfig
from monolith_py.config.retention import RetentionConfig
from monolith_py.config.serving import ServingConfig
from monolith_py.config.streams import JoinerConfig, KvConfig, LogConfig
from monolith_py.config.sync import SyncConfig
from monolith_py.config.trainer import TrainerConfig
from monolith_py.config.versions import GuardConfig, ShadowConfig
from monolith_py.errors import ConfigError


class JobConfig(Settings):
    """Settings of a job and all its processes: one TOML file."""

    # Name of the job, kept in its checkpoints: those of another job are refused.
    name: Name
    # Seed of start values, admission draws, the first topology and random growth.
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] = 0
    log: LogConfig
    kv: KvConfig
    features: Annotated[tuple[FeatureConfig, ...], Field(min_length=1)]
    dense_features: tuple[DenseFeatureConfig, ...] = ()
    counters: CounterConfig = CounterConfig()
    # At most as many as the labels of a candidate have bits: a binary one or a class has 1, a number 16.
    tasks: Annotated[tuple[TaskConfig, ...], Field(min_length=1, max_length=64)]
    model: ModelConfig = ModelConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    joiner: JoinerConfig = JoinerConfig()
    trainer: TrainerConfig
    objects: ObjectsConfig = ObjectsConfig()
    sync: SyncConfig = SyncConfig()
    retention: RetentionConfig = RetentionConfig()
    serving: ServingConfig = ServingConfig()
    shadow: ShadowConfig = ShadowConfig()
    guard: GuardConfig = GuardConfig()
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
        if self.model.kind == "dlrm" and self.model.bottom and self.model.bottom[-1] != max(dims):
            raise ValueError(f"model.bottom must end with the greatest features.dim, {max(dims)}, got {list(self.model.bottom)}")
        if self.model.sparsity.grow_criterion == "momentum" and self.optimizer.dense.kind != "adam":
            raise ValueError(
                f"optimizer.dense.kind must be 'adam' with model.sparsity.grow_criterion = 'momentum', got {self.optimizer.dense.kind!r}"
            )
        stray = sorted(feature.name for feature in self.dense_features if feature.source == "counter")
        if stray:
            raise ValueError(
                f"dense_features.source must be user, item, context or candidate: counter features come from counters.keys, got {stray}"
            )
        if self.model.bottom and not (self.dense_features or self.counters.enabled):
            raise ValueError(f"model.bottom must come with dense features, got {list(self.model.bottom)} without")
        unknown = sorted(set(self.counters.keys) - {feature.name for feature in self.features})
        if unknown:
            raise ValueError(f"counters.keys must name features, got {unknown}")
        return self

    @model_validator(mode="after")
    def _check_label_bits(self) -> JobConfig:
        num_bits = sum(16 if task.kind == "regression" else len(task.outputs) for task in self.tasks)
        if num_bits > 64:
            raise ValueError(f"tasks must have at most 64 bits of labels (a number has 16, a class 1), got {num_bits}")
        return self

    @model_validator(mode="after")
    def _check_attention(self) -> JobConfig:
        by_name = {feature.name: feature for feature in self.features}
        for feature in self.features:
            if feature.attend_to is None:
                continue
            target = by_name.get(feature.attend_to)
            if target is None or target.length:
                raise ValueError(f"features.{feature.name}.attend_to must name a feature that is no sequence, got {feature.attend_to!r}")
            if target.dim != feature.dim:
                raise ValueError(
                    f"features.{feature.name}.dim must be that of {target.name}, to which it attends, {target.dim}, got {feature.dim}"
                )
        return self

    @model_validator(mode="after")
    def _check_shared_tables(self) -> JobConfig:
        owners = {feature.name: feature for feature in self.features if feature.table is None}
        for feature in self.features:
            if feature.table is None:
                continue
            if feature.table not in owners:
                rule = f"features.{feature.name}.table must name a feature with a table of its own, one of {sorted(owners)}"
                raise ValueError(f"{rule}, got {feature.table!r}")
            for name in ("dim", "encoding"):
                if (got := getattr(feature, name)) != (expected := getattr(owners[feature.table], name)):
                    rule = f"features.{feature.name}.{name} must be {expected!r}, as that of its table {feature.table!r}"
                    raise ValueError(f"{rule}, got {got!r}")
        return self

    @model_validator(mode="after")
    def _check_negative_rates(self) -> JobConfig:
        known = {feature.name for feature in self.features}
        unknown = sorted({one.feature for one in self.joiner.negative_rates} - known)
        if unknown:
            raise ValueError(f"joiner.negative_rates.feature must name features, got {unknown}")
        values = [(one.feature, one.value) for one in self.joiner.negative_rates]
        if len(set(values)) < len(values):
            twice = next(value for place, value in enumerate(values) if value in values[:place])
            raise ValueError(f"joiner.negative_rates must have each value of a feature once, got {twice} twice")
        return self

    @model_validator(mode="after")
    def _check_shadow(self) -> JobConfig:
        arm = self.serving.arm
        if self.log.model_prefix and self.serving.is_default("arm"):
            raise ValueError(f"serving.arm must name the model of log.model_prefix {self.log.model_prefix!r}, got {arm!r}")
        return self

    @model_validator(mode="after")
    def _check_increments(self) -> JobConfig:
        location, interval = self.trainer.checkpoint_dir, self.trainer.checkpoint_full_interval
        if interval > 1 and "://" in location:
            raise ValueError(f"trainer.checkpoint_full_interval must be 1 unless trainer.checkpoint_dir is a folder, got {interval}")
        return self

    @model_validator(mode="after")
    def _check_ports(self) -> JobConfig:
        """Refuse a port used twice: processes of a job may run on one machine."""
        users: dict[int, str] = {}
        ports = {"serving.port": self.serving.port, "serving.health_port": self.serving.health_port}
        ports |= {
            f"observe.{role}_port": getattr(self.observe, f"{role}_port")
            for role in ("joiner", "trainer", "archiver", "serving", "shadow", "guard")
        }
        for field, port in ports.items():
            if port in users:
                raise ValueError(f"{field} must differ from {users[port]}, got {port} for both")
            if port:
                users[port] = field
        return self


def parse_job(settings: Mapping[str, Any]) -> JobConfig:
    """Return the job of `settings`, a parsed TOML document.

    Raises:
        ConfigError: a field is unknown, missing, of the wrong type or out of range; the message names each.
    """
    try:
        return JobConfig.model_validate(_lists_to_tuples(settings))
    except ValidationError as error:
        raise ConfigError("\n".join(explain(one, settings, JobConfig) for one in error.errors() if not _follows(one))) from None


def load_job(path: str | Path) -> JobConfig:
    """Return the job of the TOML file at `path`.

    Raises:
        ConfigError: the file is absent, is not TOML, or breaks a rule of the settings.
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
    """Return `value` with every array as a tuple, the type that strict frozen models require."""
    if isinstance(value, Mapping):
        return {key: _lists_to_tuples(item) for key, item in value.items()}
    if isinstance(value, list):
        return tuple(_lists_to_tuples(item) for item in value)
    return value


def _follows(error: Any) -> bool:
    """Return whether an array is only too short because its invalid items, reported by other errors, were left out."""
    return error["type"] == "too_short" and bool(error["input"])
