"""Online training: the step, its loss and metrics, checkpoints and their inspection."""

from monolith_py.training.checkpoint import (
    Checkpoint,
    CheckpointMeta,
    CheckpointSaving,
    Part,
    SourceMeta,
    restore_checkpoint,
    save_checkpoint,
)
from monolith_py.training.inspection import Inspection, inspect_checkpoint
from monolith_py.training.loss import TaskLoss
from monolith_py.training.metrics import auc, calibration, label_rate, logloss, normalized_entropy, per_impression_auc
from monolith_py.training.quality import Quality, QualityMonitor
from monolith_py.training.trainer import Trainer

__all__ = [
    "Checkpoint",
    "CheckpointMeta",
    "CheckpointSaving",
    "Inspection",
    "Part",
    "Quality",
    "QualityMonitor",
    "SourceMeta",
    "TaskLoss",
    "Trainer",
    "auc",
    "calibration",
    "inspect_checkpoint",
    "label_rate",
    "logloss",
    "normalized_entropy",
    "per_impression_auc",
    "restore_checkpoint",
    "save_checkpoint",
]
