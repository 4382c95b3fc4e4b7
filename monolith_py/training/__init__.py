"""Online training: the step, its loss and metrics, checkpoints and their inspection."""

from monolith_py.training.checkpoint import (
    CHANNELS,
    Checkpoint,
    CheckpointMeta,
    CheckpointSaving,
    Part,
    SourceMeta,
    channel_folder,
    copy_checkpoint,
    promote_checkpoint,
    restore_checkpoint,
    save_checkpoint,
)
from monolith_py.training.inspection import Inspection, inspect_checkpoint
from monolith_py.training.loss import TaskLoss
from monolith_py.training.metrics import auc, calibration, label_rate, logloss, normalized_entropy, per_impression_auc
from monolith_py.training.quality import Quality, QualityMonitor
from monolith_py.training.trainer import Trainer

__all__ = [
    "CHANNELS",
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
    "channel_folder",
    "copy_checkpoint",
    "inspect_checkpoint",
    "label_rate",
    "logloss",
    "normalized_entropy",
    "per_impression_auc",
    "promote_checkpoint",
    "restore_checkpoint",
    "save_checkpoint",
]
