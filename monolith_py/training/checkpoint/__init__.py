"""Checkpoints of the trainer: their layout, their store, saving and restoring."""

from typing import TYPE_CHECKING

from monolith_py.lazy import lazy_exports
from monolith_py.training.checkpoint.channels import channel_folder, free_path
from monolith_py.training.checkpoint.layout import ASIDE, CHANNELS, Checkpoint, Part
from monolith_py.training.checkpoint.meta import CheckpointMeta, SourceMeta
from monolith_py.training.checkpoint.object_store import fetched_checkpoint, local_folder, open_checkpoints
from monolith_py.training.checkpoint.store import CheckpointStore, Retention

if TYPE_CHECKING:
    from monolith_py.training.checkpoint.increments import IncrementChain
    from monolith_py.training.checkpoint.restore import restore_checkpoint
    from monolith_py.training.checkpoint.save import CheckpointSaving, save_checkpoint
else:
    __getattr__ = lazy_exports(
        __name__,
        {
            "CheckpointSaving": "monolith_py.training.checkpoint.save",
            "IncrementChain": "monolith_py.training.checkpoint.increments",
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
    "Part",
    "Retention",
    "SourceMeta",
    "channel_folder",
    "fetched_checkpoint",
    "free_path",
    "local_folder",
    "open_checkpoints",
    "restore_checkpoint",
    "save_checkpoint",
]
