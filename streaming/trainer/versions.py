"""Versions of a job's model: its checkpoints and the newest delta, each with a digest; and the way back to an older one."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from monolith_py.clock import SystemClock
from monolith_py.config import JobConfig
from monolith_py.errors import CheckpointError, ConfigError, LogError, WireError
from monolith_py.io import Log
from monolith_py.io.log.topics import Topics
from monolith_py.io.role_lock import role_lock
from monolith_py.sync import Delta, decode_delta
from monolith_py.training import (
    ASIDE,
    CHANNELS,
    Checkpoint,
    CheckpointStore,
    Part,
    free_path,
    local_folder,
    open_checkpoints,
)

_logger = logging.getLogger(__name__)

_CHANNEL = re.compile("[A-Za-z_][A-Za-z0-9_]{0,127}")
# Newest records of the updates that are looked at: the last delta of a publication has its digest.
_TAIL_RECORDS = 64


@dataclass(frozen=True)
class ModelVersion:
    """One version of the model. Replicas with the same `version` and digest have the same rows and dense parameters."""

    name: str  # of the checkpoint, or "updates" for the newest publication
    version: str  # "generation.seq" of the next delta, as in `RankResponse`
    parent: str  # version from which its generation started; "" for a new model
    digest: str  # `monolith_py.sync.ModelDigest`; "" in checkpoints of before
    examples: int | None  # learnt; None for the updates
    watermark_ms: int  # event time
    saved_ms: int  # wall clock
    fault: str = ""


def versions(job: JobConfig, log: Log) -> list[ModelVersion]:
    """Return the newest publication in the log, if there is one, and the checkpoints, newest first; then those in channels and put aside.

    Raises:
        LogError: the log cannot be read.
    """
    checkpoints = open_checkpoints(job, "versions", SystemClock())
    found = [_of_checkpoint(one, name) for name, one in checkpoints.by_name().items()]
    newest = _newest_publication(log, Topics.of(job.log).updates)
    if newest is None:
        return found
    version, digest = f"{newest.generation}.{newest.seq + 1}", str(newest.digest)
    return [ModelVersion("updates", version, "", digest, None, newest.watermark_ms, newest.published_ms), *found]


def roll_back(job: JobConfig, log: Log, name: str, skip_until: int | Mapping[int, int] | None = None) -> list[str]:
    """Make the checkpoint `name` the newest: move those after it aside; return their names. The trainer must not run.

    The trainer goes on from there at its next start, and replicas follow it. `name` may be one that was put aside before. `skip_until`:
    event time in milliseconds, or offset of each partition, of the first example to be learnt; those between are never learnt.

    Raises:
        CheckpointError: there is no such checkpoint, it is damaged, or it cannot be moved.
        AlreadyRunning: the trainer runs.
        LogError: the log cannot be read.
    """
    with role_lock(local_folder(job) / ".trainer.lock", "trainer", CheckpointError):
        checkpoints = open_checkpoints(job, "versions", SystemClock())
        directory, chosen = checkpoints.directory, _find(checkpoints, name)
        checkpoints.fetch(chosen, Part.TRAINING)
        chosen.verify(Part.TRAINING)
        if chosen.path.parent.parent == directory / CHANNELS:
            chosen = checkpoints.take_aside(chosen)  # the channel keeps its own
        if skip_until is not None:
            _skip(chosen, log, Topics.of(job.log).examples, skip_until)
            checkpoints.rewrite(chosen)
        target, aside = directory / chosen.path.name, directory / ASIDE
        try:
            moved: list[str] = []
            if chosen.path != target:
                # The trainer has come as far again since it was rolled back.
                moved = _put_aside(checkpoints, [Checkpoint(target)] if target.exists() else [], aside)
                checkpoints.move(chosen, target)
            later = [one for one in Checkpoint.all_in(directory) if one.path.name > target.name]
            return [*_put_aside(checkpoints, later, aside), *moved]
        except OSError as error:
            raise CheckpointError(f"{chosen}: {error}") from None


def promote(job: JobConfig, channel: str, name: str | None = None) -> str:
    """Put the checkpoint `name`, by default the newest intact one, into a channel; return its name. The trainer may run.

    Replicas with `serving.channel` serve it.

    Raises:
        CheckpointError: there is no such checkpoint, it is damaged, or the channel cannot be written.
        ConfigError: the name of the channel is none.
        ObjectError: the object store cannot be reached.
    """
    if not _CHANNEL.fullmatch(channel):
        raise ConfigError(f"--channel must match {_CHANNEL.pattern}, as serving.channel, got {channel!r}")
    checkpoints = open_checkpoints(job, "versions", SystemClock())
    if name is None:
        chosen = checkpoints.newest_whole()
        if chosen is None:
            raise CheckpointError(f"trainer.checkpoint_dir must hold an intact checkpoint, got {job.trainer.checkpoint_dir!r}")
    else:
        chosen = _find(checkpoints, name)
    return checkpoints.promote(chosen, channel).path.name


def _put_aside(store: CheckpointStore, checkpoints: Sequence[Checkpoint], aside: Path) -> list[str]:
    """Move checkpoints to the folder `aside`; return their names."""
    for one in checkpoints:
        aside.mkdir(exist_ok=True)
        store.move(one, free_path(aside / one.path.name))
    return [one.path.name for one in checkpoints]


def _of_checkpoint(checkpoint: Checkpoint, name: str) -> ModelVersion:
    try:
        meta = checkpoint.meta
    except CheckpointError as error:
        return ModelVersion(name, "", "", "", None, 0, 0, str(error))
    version = f"{meta.generation}.{meta.next_seq}"
    return ModelVersion(name, version, meta.parent, meta.digest, meta.examples_trained, meta.watermark_ms, meta.saved_ms)


def _newest_publication(log: Log, topic: str) -> Delta | None:
    """Return the last delta of the newest publication."""
    end = log.end_offset(topic)
    offset, newest = max(log.start_offset(topic), end - _TAIL_RECORDS), None
    while offset < end:
        records = log.read(topic, 0, offset, _TAIL_RECORDS)
        if not records:
            break
        for record in records:
            try:
                delta = decode_delta(record.value)
            except WireError as error:
                _logger.warning("%r offset %d: %s", topic, record.offset, error)
                continue
            newest = delta if delta.digest is not None else newest
        offset = records[-1].offset + 1
    return newest


def _find(checkpoints: CheckpointStore, name: str) -> Checkpoint:
    """Return the checkpoint of a name as `versions` gives it, or of a number of batches."""
    directory, found = checkpoints.directory, checkpoints.by_name()
    known = {one.path.name: one for one in Checkpoint.all_in(directory / ASIDE)} | found
    wanted = name
    if name.isdecimal():  # of several of a step, each replaces those before; one put aside comes last
        plain = Checkpoint.at(directory, int(name)).path.name
        of_step = [one for one in known if one.partition(".")[0] == plain]
        wanted = max(of_step, key=lambda one: (known[one].path.parent == directory, one), default=name)
    if wanted not in known:
        raise CheckpointError(f"--to must name a checkpoint in {str(directory)!r}, one of {sorted(known)}, got {name!r}")
    return known[wanted]


def _skip(checkpoint: Checkpoint, log: Log, topic: str, until: int | Mapping[int, int]) -> None:
    """Let the trainer go on from later examples than those of the checkpoint."""
    offsets = dict(checkpoint.meta.offsets)
    for partition in range(log.num_partitions(topic)):
        wanted = log.offset_at(topic, partition, until) if isinstance(until, int) else until.get(partition, 0)
        if wanted > log.end_offset(topic, partition):
            raise LogError(f"--skip-until must be at most the end of {topic!r}[{partition}], got {wanted}")
        if wanted > offsets.get(partition, (0, 0))[0]:
            offsets[partition] = (wanted, 0)
    checkpoint.set_offsets(offsets)
    _logger.warning("%s: the trainer goes on at offsets %s of %r", checkpoint.path.name, offsets, topic)
