"""Checkpoints of the trainer: their layout, saving and restoring."""

from monolith_py.training.checkpoint.layout import Checkpoint, Part
from monolith_py.training.checkpoint.meta import CheckpointMeta, SourceMeta
from monolith_py.training.checkpoint.restore import restore_checkpoint
from monolith_py.training.checkpoint.save import CheckpointSaving, save_checkpoint

__all__ = ["Checkpoint", "CheckpointMeta", "CheckpointSaving", "Part", "SourceMeta", "restore_checkpoint", "save_checkpoint"]
