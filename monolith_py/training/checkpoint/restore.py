"""Restoring of a trainer from a checkpoint."""

from __future__ import annotations

import torch

from monolith_py.errors import CheckpointError
from monolith_py.training.checkpoint.layout import Checkpoint, CheckpointMeta
from monolith_py.training.trainer import Trainer


def restore_checkpoint(checkpoint: Checkpoint, trainer: Trainer, job: str) -> CheckpointMeta:
    """Restore a new `trainer` and torch's random state from `checkpoint`; return its meta.

    Raises:
        CheckpointError: the checkpoint is of another job, or does not fit the trainer's settings.
    """
    meta = checkpoint.meta
    if meta.job != job:
        raise CheckpointError(f"{checkpoint}: is of job {meta.job!r}, expected {job!r}")
    trainer.bags.restore(checkpoint.tables)
    dense, optimizer = checkpoint.dense(), checkpoint.optimizer()
    try:
        trainer.model.load_state_dict(dense)
        torch.set_rng_state(optimizer.pop("rng"))
        trainer.optimizer.restore(optimizer)
    except (RuntimeError, KeyError, ValueError) as error:
        raise CheckpointError(f"{checkpoint}: does not fit this job's model: {error}") from None
    trainer.resume(num_batches=meta.step, num_examples=meta.examples_trained, watermark_ms=meta.watermark_ms)
    return meta
