"""Checkpoints of the trainer: their layout, saving and restoring."""

from monolith_py.training.checkpoint.channels import CHANNELS, channel_folder, copy_checkpoint, promote_checkpoint
from monolith_py.training.checkpoint.layout import Checkpoint, Part
from monolith_py.training.checkpoint.meta import CheckpointMeta, SourceMeta
from monolith_py.training.checkpoint.restore import restore_checkpoint
from monolith_py.training.checkpoint.save import CheckpointSaving, save_checkpoint

__all__ = [
    "CHANNELS",
    "Checkpoint",
    "CheckpointMeta",
    "CheckpointSaving",
    "Part",
    "SourceMeta",
    "channel_folder",
    "copy_checkpoint",
    "promote_checkpoint",
    "restore_checkpoint",
    "save_checkpoint",
]
