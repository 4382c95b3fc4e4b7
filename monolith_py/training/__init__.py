"""Online training: the step, its loss and metrics, checkpoints and their inspection."""

from monolith_py.training.checkpoint import (
    ASIDE,
    CHANNELS,
    Checkpoint,
    CheckpointMeta,
    CheckpointSaving,
    CheckpointStore,
    Part,
    Retention,
    SourceMeta,
    channel_folder,
    copy_checkpoint,
    local_folder,
    open_checkpoints,
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
    "ASIDE",
    "CHANNELS",
    "Checkpoint",
    "CheckpointMeta",
    "CheckpointSaving",
    "CheckpointStore",
    "Inspection",
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
    "copy_checkpoint",
    "inspect_checkpoint",
    "label_rate",
    "local_folder",
    "logloss",
    "normalized_entropy",
    "open_checkpoints",
    "per_impression_auc",
    "promote_checkpoint",
    "restore_checkpoint",
    "save_checkpoint",
]
