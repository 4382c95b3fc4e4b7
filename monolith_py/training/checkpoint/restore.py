"""Restoring of a trainer from a checkpoint, also of a job that has changed since.

1. The job's name must be that of the checkpoint, and the dims of its features unless their tables are to start anew.
2. Tables are restored by the name of their feature; their settings are the job's.
3. Dense parameters are restored by the names of inputs and tasks (`fitting`), their optimizer state where it fits.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from monolith_py.data.layout import Layout
from monolith_py.errors import CheckpointError
from monolith_py.training.checkpoint.fitting import SavedModel, fit_model
from monolith_py.training.checkpoint.fitting_optimizer import fit_optimizer
from monolith_py.training.checkpoint.layout import Arrays, Checkpoint
from monolith_py.training.checkpoint.meta import CheckpointMeta
from monolith_py.training.trainer import Trainer

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Restored:
    """A restored checkpoint, and what became of its parts: a line for each change of the job."""

    meta: CheckpointMeta
    changes: tuple[str, ...]


def restore_checkpoint(checkpoint: Checkpoint, trainer: Trainer, job: str, reset_tables: Collection[str] = ()) -> Restored:
    """Restore a new `trainer` and torch's random state from `checkpoint`; log a line for each change of the job.

    Tables of the features `reset_tables` start anew, with the inputs of all features that share them.

    Raises:
        CheckpointError: the checkpoint is of another job, a feature has another dim, or a file is absent or damaged.
    """
    meta, saved = checkpoint.meta, checkpoint.model
    if meta.job != job:
        raise CheckpointError(f"{checkpoint}: is of job {meta.job!r}, expected {job!r}")
    sharing = {feature["name"] for feature in trainer.settings["features"] if feature["table"] in reset_tables}
    reset_tables = {*reset_tables, *sharing}
    _check_dims(checkpoint, trainer.layout, saved.layout, reset_tables)
    changes = [*_restore_tables(checkpoint, trainer, reset_tables), *_changed_settings(saved.settings, trainer.settings)]
    # Inputs that came from the rows of a table that starts anew have no meaning.
    features = tuple((f"<was {name}>" if name in reset_tables else name, dim, kind) for name, dim, kind in saved.layout.features)
    changes += _restore_dense(checkpoint, trainer, replace(saved.layout, features=features))
    trainer.resume(num_batches=meta.step, num_examples=meta.examples_trained, watermark_ms=meta.watermark_ms)
    for change in changes:
        _logger.warning("the job has changed since %s: %s", checkpoint.path.name, change)
    return Restored(meta, tuple(changes))


def _check_dims(checkpoint: Checkpoint, layout: Layout, saved: Layout, reset_tables: Collection[str]) -> None:
    dims = {name: dim for name, dim, _ in saved.features}
    for name, dim, _ in layout.features:
        if name not in reset_tables and dims.get(name, dim) != dim:
            rule = f"features.{name}.dim must be {dims[name]}, as in {checkpoint}, got {dim}"
            raise CheckpointError(f"{rule}: start its table anew with --reset-table {name}, or give the feature another name")


def _restore_tables(checkpoint: Checkpoint, trainer: Trainer, reset_tables: Collection[str]) -> Iterator[str]:
    """Restore the tables of the features that the checkpoint has; yield a line for each other one."""
    saved = {name for name, _, _ in checkpoint.model.layout.features}
    for name, table in trainer.bags.tables.items():
        if name in reset_tables:
            yield f"feature {name}: its table was reset and starts empty"
        elif name in saved:
            for part in checkpoint.table_parts(name):
                table.restore_from(part)
        else:
            yield f"feature {name}: new, its table starts empty"
    for name in sorted(saved - {feature.name for feature in trainer.bags.features}):
        yield f"feature {name}: dropped, with its table of {checkpoint.table(name).stat().st_size} bytes"


def _restore_dense(checkpoint: Checkpoint, trainer: Trainer, saved_layout: Layout) -> list[str]:
    """Restore dense parameters, optimizer and torch's random state; return a line for each part that could not be taken as it is."""
    dense, optimizer = _tensors(checkpoint.dense()), _tensors(checkpoint.optimizer())
    before = checkpoint.model.settings
    try:
        torch.set_rng_state(optimizer.pop("rng"))
        same_kind = before["optimizer"]["dense"]["kind"] == trainer.settings["optimizer"]["dense"]["kind"]
        same_model = before["model"] == trainer.settings["model"] and _attention(dense) == _attention(trainer.model.state_dict())
        if saved_layout == trainer.layout and same_model and same_kind:
            trainer.model.load_state_dict(dense)
            trainer.optimizer.restore(optimizer)
            return []
        sparsity = before["model"]["sparsity"]
        saved = SavedModel(dense, saved_layout, sparsity["atom"], has_runs=":" in sparsity["scope"])
        fitted = fit_model(trainer.model, trainer.layout, saved)
        return [*fitted.lines, fit_optimizer(trainer, fitted, dense, optimizer, is_same_kind=same_kind)]
    except (RuntimeError, KeyError, ValueError, IndexError) as error:
        raise CheckpointError(f"{checkpoint}: does not fit this job's model: {error}") from None


def _tensors(arrays: Arrays) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _attention(tensors: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    """Return the shapes of the attention over each sequence, which layout and settings of the model lack."""
    return {name: value.shape for name, value in tensors.items() if name.startswith("attention.")}


def _changed_settings(saved: Mapping[str, Any], present: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each setting with another value, of the sections, features and tasks that both have."""
    before, after = dict(_flat(saved)), dict(_flat(present))
    for name, value in after.items():
        if name in before and before[name] != value:
            yield f"{name}: {value!r}, was {before[name]!r}"


def _flat(settings: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted name and value of each setting; features and tasks go by name."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif value and isinstance(value, list | tuple) and isinstance(value[0], Mapping):
            for item in value:
                yield from _flat(item, f"{prefix}{key}.{item['name']}.")
        else:
            yield f"{prefix}{key}", value
