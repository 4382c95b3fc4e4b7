"""Start of the trainer: from the newest checkpoint, or as a new model."""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from monolith_py.config import JobConfig
from monolith_py.errors import CheckpointError, ConfigError, StateMismatch
from monolith_py.io import Log
from monolith_py.io.log.topics import Topics
from monolith_py.sync import Generation, Parent, next_generation
from monolith_py.training import Checkpoint, CheckpointMeta, CheckpointStore, Trainer, restore_checkpoint
from monolith_streaming.trainer.handover import SourceOptions
from monolith_streaming.trainer.rows import import_rows
from monolith_streaming.trainer.step_order import SourcePlace

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StartOptions:
    """Options of `monolith train` for a start that would otherwise be refused."""

    fresh: bool = False  # start a new model although the log holds updates of an older one
    reset_tables: tuple[str, ...] = ()  # features whose tables start anew in place of being restored
    accept_hole: bool = False  # go on where steps of the joiner are missing in topic `examples`
    import_rows: tuple[tuple[str, Path], ...] = ()  # features with a file each whose rows go into their table
    source: SourceOptions | None = None  # first examples of a new model; None: the job's from their start


RESUME = StartOptions()


@dataclass(frozen=True)
class Start:
    """A trainer at its start; `meta` of the checkpoint that it continues, None for a new model."""

    trainer: Trainer
    meta: CheckpointMeta | None
    generation: Generation  # of its updates
    model_id: str
    changes: tuple[str, ...] = ()  # of the job since the checkpoint
    imported: Mapping[str, str] = field(default_factory=dict)  # feature -> mark of the file whose rows were imported


def start_trainer(job: JobConfig, log: Log, checkpoints: CheckpointStore, options: StartOptions, now_ms: int) -> Start:
    """Return a trainer restored from the newest checkpoint of the job; without a checkpoint, a new model. Nothing is written.

    Raises:
        CheckpointError: the newest checkpoint is of another job, or a feature has another dim; none is intact; or the folder has none
            although the log holds updates, or has one with `fresh`.
        ConfigError: a table to be reset is of no feature, or a file to be imported does not fit.
        LogError: the topic of the updates is missing, or the log cannot be reached.
        ObjectError: the object store of the checkpoints cannot be reached.
    """
    names = [feature.name for feature in job.features if feature.table is None]
    unknown = sorted(set(options.reset_tables) - set(names))
    if unknown:
        raise ConfigError(f"--reset-table must name a feature with a table, one of {names}, got {unknown}")
    topic, found = Topics.of(job.log).updates, checkpoints.all()
    _check_folder(found, options)
    checkpoint = checkpoints.newest()
    if checkpoint is None:
        _check_new_model(job, found, log, options)
        number = _first_generation(log, topic, now_ms)
        trainer = Trainer(job)
        imported = import_rows(trainer, options.import_rows, {})
        return Start(trainer, None, Generation(number, _trainer_name(now_ms)), f"{number}-{now_ms}", imported=imported)
    trainer = Trainer(job)
    restored = restore_checkpoint(checkpoint, trainer, job.name, options.reset_tables)
    meta = restored.meta
    _logger.info("restored %s: %d examples learnt", checkpoint, meta.examples_trained)
    number = next_generation(log, topic, meta.generation)
    # Replicas that hold rows of a table that starts anew, or is left, must load a checkpoint: no eviction names the former rows.
    is_new = bool(options.reset_tables) or _begins_to_share(job, checkpoint)
    model_id = f"{number}-{now_ms}" if is_new else meta.model_id
    parent = None if is_new else Parent(meta.generation, meta.next_seq, meta.updates_offset)
    generation = Generation(number, _trainer_name(now_ms), parent)
    kept = {name: mark for name, mark in meta.imported.items() if _has_its_rows(name, job, checkpoint, options)}
    imported = import_rows(trainer, options.import_rows, kept)
    changes = restored.changes + tuple(f"feature {name}: rows imported" for name in imported if imported[name] != kept.get(name))
    return Start(trainer, meta, generation, model_id, changes, imported)


def _begins_to_share(job: JobConfig, checkpoint: Checkpoint) -> bool:
    """Return whether a feature shares another table than in the checkpoint."""
    before = _owners(checkpoint)
    return any(one.table is not None and before.get(one.name, one.table) != one.table for one in job.features)


def _has_its_rows(name: str, job: JobConfig, checkpoint: Checkpoint, options: StartOptions) -> bool:
    """Return whether the rows that a feature had in the checkpoint were restored."""
    before = _owners(checkpoint)
    now = next((one.table or one.name for one in job.features if one.name == name), None)
    return name in before and now in (name, before[name]) and now not in options.reset_tables


def _owners(checkpoint: Checkpoint) -> dict[str, str]:
    """Return each feature of a checkpoint with the one whose table it reads."""
    return {one["name"]: one.get("table") or one["name"] for one in checkpoint.model.settings["features"]}


def source_place(meta: CheckpointMeta | None, topic: str, topic_id: str, options: StartOptions) -> SourcePlace:
    """Return the place of the checkpoint `meta` in `topic`, the beginning without one, or if the topic was made again and that is accepted.

    Raises:
        StateMismatch: the topic was made again, and no option accepts it.
    """
    if meta is None:
        return SourcePlace(accepts_holes=options.accept_hole)
    if meta.examples_topic and meta.examples_topic != topic_id:
        rule = (
            f"{topic!r} must be the topic with the id {meta.examples_topic}, whose offsets the checkpoint has, got {topic_id}: made again"
        )
        if not options.accept_hole:
            raise StateMismatch(f"{rule}. --accept-hole reads it from its start")
        _logger.error("reading from the start: %s", rule)
        return SourcePlace(accepts_holes=True)
    return SourcePlace(meta.offsets, meta.steps, options.accept_hole)


def _first_generation(log: Log, topic: str, now_ms: int) -> int:
    """Return the generation of a new model.

    Updates that were trimmed away had generations that nobody knows, and replicas that had them skip all lower ones: the time in seconds is
    higher than any count of starts.
    """
    generation = next_generation(log, topic, 0)
    return now_ms // 1000 if generation == 1 and log.end_offset(topic) > 0 else generation


def _trainer_name(now_ms: int) -> str:
    return f"{platform.node()}-{os.getpid()}-{now_ms}"


def _check_folder(found: Sequence[Checkpoint], options: StartOptions) -> None:
    """Refuse a new model beside checkpoints of another one: a later start would take whichever learnt more batches."""
    if options.fresh and found:
        raise CheckpointError(
            f"trainer.checkpoint_dir must hold no checkpoint with --fresh, got {found[0]}: move it away, or leave out --fresh"
        )


def _check_new_model(job: JobConfig, found: Sequence[Checkpoint], log: Log, options: StartOptions) -> None:
    """Refuse a new model unless the log was never used or `fresh` is set: its first update replaces the model of every replica."""
    topic, directory = Topics.of(job.log).updates, job.trainer.checkpoint_dir
    if found:
        raise CheckpointError(
            f"trainer.checkpoint_dir must hold an intact checkpoint, got {directory!r} with {len(found)} damaged: "
            "move them away and start with --fresh for a new model"
        )
    end = log.end_offset(topic)
    if end > 0 and not options.fresh:
        raise CheckpointError(
            f"trainer.checkpoint_dir must hold the checkpoints of this job, got {directory!r} without one although topic {topic!r} "
            f"has {end} updates: a new model would replace that of every replica; start with --fresh if that is meant"
        )
