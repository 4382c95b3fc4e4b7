"""Channels in a folder: named folders beside the checkpoints of a trainer, each with the one checkpoint that its replicas serve.

No trainer prunes or reads a channel. A checkpoint in it shares its files with the one that was promoted, by hard links where the file
system has them. In an object store it shares them by name (`object_store`).
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from monolith_py.errors import CheckpointError
from monolith_py.io.role_lock import role_lock
from monolith_py.training.checkpoint.layout import ASIDE, CHANNELS, DELETED, Checkpoint


def channel_folder(directory: Path, channel: str) -> Path:
    """Return the folder of a channel of the checkpoints in `directory`.

    >>> print(channel_folder(Path("shop"), "stable"))
    shop/channels/stable
    """
    return directory / CHANNELS / channel


def promote_checkpoint(checkpoint: Checkpoint, folder: Path) -> Checkpoint:
    """Put `checkpoint` into the channel at `folder`, in place of the one there; return the one in the channel.

    A crash leaves the former one, or both, of which replicas take the newer; the next promotion removes what it left.

    Raises:
        AlreadyRunning: another process promotes to this channel; each would delete the checkpoint of the other.
        CheckpointError: it is damaged, or the folder cannot be written.
    """
    with role_lock(folder / ".promoting.lock", "promotion to a channel", CheckpointError):
        return _put(checkpoint, folder)


def _put(checkpoint: Checkpoint, folder: Path) -> Checkpoint:
    try:
        target = next((one for one in Checkpoint.all_in(folder) if _same(one, checkpoint)), None)
        if target is None:
            target = Checkpoint(folder / checkpoint.path.name)
            if target.path.exists():
                target = Checkpoint.next_at(folder, int(checkpoint.path.name.removeprefix("step-")[:12]))
            copy_checkpoint(checkpoint, target.path)
        for other in Checkpoint.all_in(folder):
            if other != target:
                other.path.rename(folder / f"{DELETED}{other.path.name}")  # others see all of it or nothing
        for path in folder.glob(f"{DELETED}*"):
            shutil.rmtree(path)
    except (OSError, shutil.Error) as error:
        raise CheckpointError(f"{checkpoint}: cannot be promoted to {folder}: {error}") from None
    return target


def copy_aside(checkpoint: Checkpoint, directory: Path) -> Checkpoint:
    """Return a copy of a checkpoint beside those that a rollback has put aside in `directory`.

    Raises:
        CheckpointError: it is damaged, or the folder cannot be written.
    """
    try:
        (directory / ASIDE).mkdir(exist_ok=True)
        return copy_checkpoint(checkpoint, free_path(directory / ASIDE / checkpoint.path.name))
    except OSError as error:
        raise CheckpointError(f"{checkpoint}: {error}") from None


def free_path(path: Path) -> Path:
    """Return `path`, or a name after it that is free."""
    number, free = 0, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free


def copy_checkpoint(checkpoint: Checkpoint, path: Path) -> Checkpoint:
    """Copy a checkpoint to `path`, whole or not at all, and return the copy.

    Raises:
        CheckpointError: it is damaged.
        OSError: it cannot be copied.
    """
    staging = path.parent / ".copying"
    shutil.rmtree(staging, ignore_errors=True)
    shutil.copytree(checkpoint.path, staging, copy_function=link)
    Checkpoint(staging).verify()
    staging.rename(path)
    return Checkpoint(path)


def _same(one: Checkpoint, other: Checkpoint) -> bool:
    """Return whether both are copies of one checkpoint; False if the first is damaged."""
    try:
        return (one.meta.step, one.meta.saved_ms, one.meta.digest) == (other.meta.step, other.meta.saved_ms, other.meta.digest)
    except CheckpointError:
        return False


def link(source: str, target: str) -> None:
    """Link a file, or copy it where the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
