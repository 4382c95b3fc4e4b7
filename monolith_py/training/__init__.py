"""Online training: the step, its loss and metrics, checkpoints and their inspection."""

from typing import TYPE_CHECKING

from monolith_py.lazy import lazy_exports
from monolith_py.training.checkpoint import (
    ASIDE,
    CHANNELS,
    Checkpoint,
    CheckpointMeta,
    CheckpointStore,
    Part,
    Retention,
    SourceMeta,
    channel_folder,
    fetched_checkpoint,
    free_path,
    local_folder,
    open_checkpoints,
)
from monolith_py.training.inspection import Inspection, inspect_checkpoint
from monolith_py.training.metrics import auc, calibration, label_rate, logloss, normalized_entropy, per_impression_auc
from monolith_py.training.quality import Quality, QualityMonitor

if TYPE_CHECKING:
    from monolith_py.training.checkpoint import CheckpointSaving, IncrementChain, restore_checkpoint, save_checkpoint
    from monolith_py.training.loss import TaskLoss
    from monolith_py.training.memory_limit import MemoryLimit
    from monolith_py.training.trainer import Trainer
else:
    __getattr__ = lazy_exports(
        __name__,
        {
            "CheckpointSaving": "monolith_py.training.checkpoint.save",
            "IncrementChain": "monolith_py.training.checkpoint.increments",
            "MemoryLimit": "monolith_py.training.memory_limit",
            "TaskLoss": "monolith_py.training.loss",
            "Trainer": "monolith_py.training.trainer",
            "restore_checkpoint": "monolith_py.training.checkpoint.restore",
            "save_checkpoint": "monolith_py.training.checkpoint.save",
        },
    )

__all__ = [
    "ASIDE",
    "CHANNELS",
    "Checkpoint",
    "CheckpointMeta",
    "CheckpointSaving",
    "CheckpointStore",
    "IncrementChain",
    "Inspection",
    "MemoryLimit",
    "Part",
    "Quality",
    "QualityMonitor",
    "Retention",
    "SourceMeta",
    "TaskLoss",
    "Trainer",
    "auc",
    "calibration",
    "channel_folder",
    "fetched_checkpoint",
    "free_path",
    "inspect_checkpoint",
    "label_rate",
    "local_folder",
    "logloss",
    "normalized_entropy",
    "open_checkpoints",
    "per_impression_auc",
    "restore_checkpoint",
    "save_checkpoint",
]
