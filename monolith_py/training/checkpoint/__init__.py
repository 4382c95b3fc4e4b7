"""Checkpoints of the trainer: save, find, verify, restore."""

from monolith_py.training.checkpoint.save import (
    CheckpointMeta,
    CheckpointSaving,
    newest_checkpoint,
    newest_intact,
    read_meta,
    restore_checkpoint,
    save_checkpoint,
    verify_checkpoint,
)

__all__ = [
    "CheckpointMeta",
    "CheckpointSaving",
    "newest_checkpoint",
    "newest_intact",
    "read_meta",
    "restore_checkpoint",
    "save_checkpoint",
    "verify_checkpoint",
]
