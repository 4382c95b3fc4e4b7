"""Settings of a job: one strict TOML file, shared by all its processes, parsed into frozen models."""

from monolith_py.config.features import CounterConfig, DenseFeatureConfig, FeatureConfig, TaskConfig
from monolith_py.config.job import JobConfig, load_job, parse_job
from monolith_py.config.model import ModelConfig
from monolith_py.config.objects import ObjectsConfig
from monolith_py.config.observe import ObserveConfig
from monolith_py.config.optimizer import DenseOptimizerConfig, OptimizerConfig, SparseOptimizerConfig
from monolith_py.config.retention import RetentionConfig
from monolith_py.config.serving import ServingConfig
from monolith_py.config.sparsity import SparsityConfig
from monolith_py.config.streams import JoinerConfig, KvConfig, LogConfig
from monolith_py.config.sync import SyncConfig
from monolith_py.config.trainer import TrainerConfig

__all__ = [
    "CounterConfig",
    "DenseFeatureConfig",
    "DenseOptimizerConfig",
    "FeatureConfig",
    "JobConfig",
    "JoinerConfig",
    "KvConfig",
    "LogConfig",
    "ModelConfig",
    "ObjectsConfig",
    "ObserveConfig",
    "OptimizerConfig",
    "RetentionConfig",
    "ServingConfig",
    "SparseOptimizerConfig",
    "SparsityConfig",
    "SyncConfig",
    "TaskConfig",
    "TrainerConfig",
    "load_job",
    "parse_job",
]
