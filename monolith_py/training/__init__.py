"""Online training: the step, its loss and metrics, and checkpoints."""

from monolith_py.training.checkpoint import (
    CheckpointMeta,
    CheckpointSaving,
    newest_checkpoint,
    read_meta,
    restore_checkpoint,
    save_checkpoint,
)
from monolith_py.training.inspection import Inspection, inspect_checkpoint
from monolith_py.training.loss import TaskLoss
from monolith_py.training.metrics import ProgressiveWindow, auc, calibration, logloss, normalized_entropy
from monolith_py.training.trainer import PoisonedBatch, Trainer

__all__ = [
    "CheckpointMeta",
    "CheckpointSaving",
    "Inspection",
    "PoisonedBatch",
    "ProgressiveWindow",
    "TaskLoss",
    "Trainer",
    "auc",
    "calibration",
    "inspect_checkpoint",
    "logloss",
    "newest_checkpoint",
    "normalized_entropy",
    "read_meta",
    "restore_checkpoint",
    "save_checkpoint",
]
