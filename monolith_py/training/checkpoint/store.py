"""Checkpoints of a job in a folder that its processes share."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from monolith_py.clock import Clock, SystemClock
from monolith_py.config import TrainerConfig
from monolith_py.errors import CheckpointError, CheckpointVersion, LogError, ObjectError, WireError
from monolith_py.io.objects import FolderObjects, Objects
from monolith_py.training.checkpoint.channels import channel_folder, copy_aside, promote_checkpoint
from monolith_py.training.checkpoint.layout import ASIDE, CHANNELS, DELETED, Checkpoint, Part
from monolith_py.training.checkpoint.leases import Leases

_logger = logging.getLogger(__name__)


def _none(checkpoints: Sequence[Checkpoint]) -> Collection[Checkpoint]:
    return ()


@dataclass(frozen=True)
class Retention:
    """Checkpoints that are kept: the newest `num`, those saved in the last `age_s` seconds, and those that `needed` chooses of all."""

    num: int
    age_s: float = 0.0
    needed: Callable[[Sequence[Checkpoint]], Collection[Checkpoint]] = _none

    @staticmethod
    def of(config: TrainerConfig, needed: Callable[[Sequence[Checkpoint]], Collection[Checkpoint]] = _none) -> Retention:
        """Return the retention of a job."""
        return Retention(config.checkpoints_kept, config.checkpoints_kept_s, needed)


class CheckpointStore:
    """Checkpoints in `directory`, which all processes of the job share."""

    def __init__(self, directory: Path, clock: Clock | None = None, objects: Objects | None = None) -> None:
        """Open the checkpoints in `directory`; leases are in `objects`, by default in the same folder."""
        self.directory = directory
        self._clock = clock or SystemClock()
        self._leases = Leases(objects or FolderObjects(directory), self._clock)

    def all(self) -> list[Checkpoint]:
        """Return the checkpoints, newest first, damaged ones included. Their manifests can be read, other files after `fetch`.

        Raises:
            ObjectError: the store cannot be reached.
        """
        return Checkpoint.all_in(self.directory)

    def by_name(self) -> dict[str, Checkpoint]:
        """Return all checkpoints by name: those of `all`, then "channels/<channel>/<checkpoint>" and "rolled-back/<checkpoint>".

        Raises:
            ObjectError: the store cannot be reached.
        """
        found, channels = {one.path.name: one for one in self.all()}, sorted((self.directory / CHANNELS).glob("*"))
        others = [one for folder in (*channels, self.directory / ASIDE) for one in Checkpoint.all_in(folder)]
        return found | {one.path.relative_to(self.directory).as_posix(): one for one in others}

    def newest(self) -> Checkpoint | None:
        """Return the newest checkpoint that a trainer can start from, None if there is none; log each damaged one as an error.

        Raises:
            CheckpointVersion: a newer checkpoint has another format version.
            ObjectError: the store cannot be reached.
        """

        def check(checkpoint: Checkpoint) -> None:
            self.fetch(checkpoint, Part.TRAINING)
            checkpoint.verify(Part.TRAINING)

        return self._newest(check)

    def newest_whole(self) -> Checkpoint | None:
        """Return the newest checkpoint that `check` finds whole, as `newest` does."""
        return self._newest(self.check)

    def _newest(self, check: Callable[[Checkpoint], None]) -> Checkpoint | None:
        for checkpoint in self.all():
            try:
                check(checkpoint)
            except CheckpointVersion:
                raise
            except CheckpointError as error:
                _logger.error("checkpoint refused: %s", error)
            else:
                return checkpoint
        return None

    def check(self, checkpoint: Checkpoint) -> None:
        """Check that every file is there and as the manifest has it; in an object store by its size alone.

        Raises:
            CheckpointError: it is not.
            ObjectError: the store cannot be reached.
        """
        checkpoint.verify()

    def next_at(self, step: int) -> Checkpoint:
        """Return a checkpoint of `step` batches, to be written, that sorts after all others of that step.

        Raises:
            CheckpointError: the store cannot be reached.
        """
        return Checkpoint.next_at(self.directory, step)

    def fetch(self, checkpoint: Checkpoint, part: Part) -> None:
        """Make the files of `part` readable.

        Raises:
            CheckpointError: a file is absent in the store.
            ObjectError: the store cannot be reached.
        """

    def publish(self, checkpoint: Checkpoint) -> None:
        """Give other processes a checkpoint that was written to `directory`.

        Raises:
            CheckpointError: the store cannot be written; the checkpoint is then deleted.
        """

    def move(self, checkpoint: Checkpoint, path: Path) -> None:
        """Give a checkpoint another path below `directory`.

        Raises:
            OSError: it cannot be moved.
        """
        checkpoint.path.rename(path)

    def rewrite(self, checkpoint: Checkpoint) -> None:
        """Give other processes a manifest that has changed."""

    def promote(self, checkpoint: Checkpoint, channel: str) -> Checkpoint:
        """Put a checkpoint into a channel, in place of the one there; return the one in the channel.

        Raises:
            AlreadyRunning: another process promotes to this channel.
            CheckpointError: it is damaged or being deleted, or the channel cannot be written.
            ObjectError: the store cannot be reached.
        """
        with self.reading(checkpoint):
            return promote_checkpoint(checkpoint, channel_folder(self.directory, channel))

    def take_aside(self, checkpoint: Checkpoint) -> Checkpoint:
        """Return one put aside, or of the trainer, with the content of a checkpoint in a channel, which keeps its own.

        Raises:
            CheckpointError: it is damaged, or cannot be copied.
            ObjectError: the store cannot be reached.
        """
        return copy_aside(checkpoint, self.directory)

    def reading(self, checkpoint: Checkpoint) -> AbstractContextManager[None]:
        """Keep a checkpoint from being deleted for the block.

        Raises:
            CheckpointError: it is being deleted.
        """
        return self._leases.reading(checkpoint.path.name)

    def leased(self) -> set[str]:
        """Return the names of the checkpoints that a process reads.

        Raises:
            ObjectError: the store cannot be reached.
        """
        return self._leases.held()

    def prune(self, retention: Retention, newest: Checkpoint) -> None:
        """Delete what `retention` does not keep and no process reads; also the earlier ones of the step of `newest`, which hold the same.

        A checkpoint that is read stays until a later call. What cannot be deleted is logged.
        """
        try:
            found, same = self.all(), newest.earlier_of_step()
            others = [one for one in found if one not in same]
            now_ms = self._clock.now_ms()
            old = [one for one in others[retention.num :] if now_ms - _saved_ms(one) >= retention.age_s * 1000]
            needed = retention.needed(found)
            going = [one for one in (*same, *old) if one not in needed]
            kept, abandoned = self._names_beside()
            kept |= {one.path.name for one in found if one not in going}
            self._leases.tidy(kept, {one.path.name for one in going} | abandoned)
            for one in going:
                if self._leases.may_delete(one.path.name):
                    self._delete(one)
                    self._leases.forget(one.path.name)
                else:
                    _logger.info("%s: a process reads it, deleting it later", one)
        except (ObjectError, CheckpointError, LogError, WireError) as error:
            _logger.warning("old checkpoints stay: %s", error)
        for path in self.directory.glob(f"{DELETED}*"):
            shutil.rmtree(path, ignore_errors=True)

    def _names_beside(self) -> tuple[set[str], set[str]]:
        """Return names that have leases here beside those of `all`: of checkpoints that stay, and of files to be deleted."""
        return set(), set()

    def _delete(self, checkpoint: Checkpoint) -> None:
        """Delete a checkpoint; others see all of it or nothing."""
        hidden = self.directory / f"{DELETED}{checkpoint.path.name}"
        try:
            checkpoint.path.rename(hidden)
        except OSError as error:
            _logger.warning("%s stays: %s", checkpoint, error)
            return
        shutil.rmtree(hidden, ignore_errors=True)


def _saved_ms(checkpoint: Checkpoint) -> int:
    """Return when a checkpoint was saved; 0 for a damaged one."""
    try:
        return checkpoint.meta.saved_ms
    except CheckpointError:
        return 0
