"""Settings of a job: one strict TOML file, shared by all its processes, parsed into frozen models."""

from monolith_py.config.features import CounterConfig, DenseFeatureConfig, FeatureConfig, TaskConfig
from monolith_py.config.job import JobConfig, load_job, parse_job
from monolith_py.config.model import ModelConfig
from monolith_py.config.objects import ObjectsConfig
from monolith_py.config.observe import ObserveConfig
from monolith_py.config.optimizer import (
    DenseOptimizerConfig,
    FeatureOptimizerConfig,
    OptimizerConfig,
    ScheduleConfig,
    SparseOptimizerConfig,
)
from monolith_py.config.retention import RetentionConfig
from monolith_py.config.security import ServingSecurityConfig
from monolith_py.config.serving import ServingConfig
from monolith_py.config.sparsity import SparsityConfig
from monolith_py.config.streams import JoinerConfig, KvConfig, LogConfig
from monolith_py.config.sync import SyncConfig
from monolith_py.config.trainer import TrainerConfig
from monolith_py.config.versions import GuardConfig, ShadowConfig, SplitConfig

__all__ = [
    "CounterConfig",
    "DenseFeatureConfig",
    "DenseOptimizerConfig",
    "FeatureConfig",
    "FeatureOptimizerConfig",
    "GuardConfig",
    "JobConfig",
    "JoinerConfig",
    "KvConfig",
    "LogConfig",
    "ModelConfig",
    "ObjectsConfig",
    "ObserveConfig",
    "OptimizerConfig",
    "RetentionConfig",
    "ScheduleConfig",
    "ServingConfig",
    "ServingSecurityConfig",
    "ShadowConfig",
    "SparseOptimizerConfig",
    "SparsityConfig",
    "SplitConfig",
    "SyncConfig",
    "TaskConfig",
    "TrainerConfig",
    "load_job",
    "parse_job",
]
