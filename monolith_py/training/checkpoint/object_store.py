"""Checkpoints of a job in an object store, with copies in a local folder.

PREFIX/<checkpoint>/<file>                        as in the folder of a checkpoint; manifest.json is written last
PREFIX/rolled-back/<checkpoint>/manifest.json     instead of the one above, for a checkpoint put aside; its files stay
PREFIX/channels/<channel>/<checkpoint>/manifest.json   beside the one above, for a checkpoint in a channel; its files are those above
PREFIX/leases/...                                 as in a folder

Files are deleted once no manifest names their checkpoint. Who writes a manifest beside files holds a lease of them, and whoever deletes
files marks them, then looks for manifests: as with readers, at least one of them sees the other.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from monolith_py.clock import Clock
from monolith_py.config import JobConfig
from monolith_py.errors import CheckpointError, ConfigError, ObjectError, ObjectMissing
from monolith_py.io.objects import ObjectInfo, Objects, is_object_url, open_objects
from monolith_py.training.checkpoint.channels import channel_folder
from monolith_py.training.checkpoint.layout import ASIDE, CHANNELS, Checkpoint, Part
from monolith_py.training.checkpoint.object_keys import MANIFEST, is_manifest, name_of, names_elsewhere, names_without_manifest
from monolith_py.training.checkpoint.store import CheckpointStore, Retention

_logger = logging.getLogger(__name__)

# Files transferred at the same time.
_TRANSFERS = 4
# Processes of one job on a machine, each with a folder of its own.
_MOST_PROCESSES = 256
_Item = TypeVar("_Item")


def open_checkpoints(job: JobConfig, role: str, clock: Clock, channel: str | None = None) -> CheckpointStore:
    """Return the checkpoints of a job at `trainer.checkpoint_dir`, or in a channel; `role` names the local folder of an object store.

    Raises:
        ConfigError: the location is a URL of another scheme.
        CheckpointError: there is no room for local copies.
    """
    location, folder = job.trainer.checkpoint_dir, local_folder(job)
    if not is_object_url(location):
        return CheckpointStore(folder if channel is None else channel_folder(folder, channel), clock)
    objects = open_objects(location, job.objects)
    own, lock = _own_folder(folder, role)
    store = ObjectCheckpointStore(own, objects, clock, channel)
    weakref.finalize(store, os.close, lock)
    return store


@contextmanager
def fetched_checkpoint(job: JobConfig, name: str, clock: Clock) -> Iterator[Path]:
    """Return the folder of the checkpoint `name` of a job, with all its files, for the block; it is not deleted meanwhile.

    Raises:
        CheckpointError: there is no such checkpoint, or a file is absent.
        ObjectError: the object store cannot be reached.
    """
    store = open_checkpoints(job, "inspect", clock)
    known = store.by_name()
    if name not in known:
        raise CheckpointError(f"{job.trainer.checkpoint_dir}: must have a checkpoint {name!r}, got {', '.join(known) or 'none'}")
    with store.reading(known[name]):
        store.fetch(known[name], Part.ALL)
        yield known[name].path


def local_folder(job: JobConfig) -> Path:
    """Return the folder of the checkpoints on this machine: `trainer.checkpoint_dir`, or that of the copies from an object store."""
    if not is_object_url(job.trainer.checkpoint_dir):
        return Path(job.trainer.checkpoint_dir)
    return Path(job.objects.cache_dir or Path(tempfile.gettempdir(), "monolith-checkpoints")) / job.name


class ObjectCheckpointStore(CheckpointStore):
    """Checkpoints in an object store. `directory` has their manifests, and files once they are fetched or before they are published."""

    def __init__(self, directory: Path, objects: Objects, clock: Clock, channel: str | None = None) -> None:
        """Open the checkpoints in `objects`; with `channel` for a process that reads those of this channel alone."""
        super().__init__(directory, clock, objects)
        self._objects = objects
        self._known: dict[str, ObjectInfo] = {}  # key -> version of the manifest that is in `directory`
        self._home = "" if channel is None else f"{CHANNELS}/{channel}/"
        self._names: tuple[set[str], set[str]] = set(), set()  # at the last look: as `_names_beside`

    def all(self) -> list[Checkpoint]:
        """Return the checkpoints in the store, newest first; copies of others are deleted."""
        listed = self._objects.list(self._home)
        manifests = {key: info for key, info in listed.items() if is_manifest(key)}
        for key, info in manifests.items():
            path = self.directory / key
            if self._known.get(key) != info or not path.exists():
                try:
                    value = self._objects.read(key)
                except ObjectMissing:  # deleted meanwhile
                    continue
                _write(path, lambda part, value=value: part.write_bytes(value))  # type: ignore[misc]
                self._known[key] = info
        self._names = names_elsewhere(manifests), names_without_manifest(listed)
        for folder in (self.directory, self.directory / ASIDE, *(self.directory / CHANNELS).glob("*")):
            for one in Checkpoint.all_in(folder):
                if one.manifest.relative_to(self.directory).as_posix() not in manifests:
                    shutil.rmtree(one.path, ignore_errors=True)
        return Checkpoint.all_in(self.directory / self._home)

    def next_at(self, step: int) -> Checkpoint:
        """Return a checkpoint to be written: its name is of no checkpoint in the store."""
        self.all()
        return super().next_at(step)

    def check(self, checkpoint: Checkpoint) -> None:
        """Compare the sizes of the files in the store with the manifest: nothing is downloaded."""
        name = checkpoint.path.name
        listed = self._objects.list(f"{name}/")
        for file, expected in checkpoint.files_of(Part.ALL).items():
            found = listed.get(f"{name}/{file}")
            if found is None or found.size != expected["size"]:
                size = "none" if found is None else f"{found.size} bytes"
                raise CheckpointError(f"{checkpoint}: {file} must have {expected['size']} bytes in the object store, got {size}")

    def fetch(self, checkpoint: Checkpoint, part: Part) -> None:
        """Download the files of `part` that are not there yet."""
        files = checkpoint.files_of(part)
        missing = [name for name, file in files.items() if _size(checkpoint.path / name) != file["size"]]

        def download(name: str) -> None:
            key = f"{checkpoint.path.name}/{name}"
            _write(checkpoint.path / name, lambda path: self._objects.download(key, path))

        try:
            _in_threads(download, missing)
        except ObjectMissing as error:
            raise CheckpointError(f"{checkpoint}: {error}") from None

    def publish(self, checkpoint: Checkpoint) -> None:
        """Upload a checkpoint, its manifest last. The files of older copies are deleted."""
        name = checkpoint.path.name

        def upload(file: Path) -> None:
            self._objects.upload(f"{name}/{file.relative_to(checkpoint.path).as_posix()}", file)

        try:
            _in_threads(upload, [file for file in checkpoint.files() if file != checkpoint.manifest])
            self.rewrite(checkpoint)
        except (ObjectError, OSError) as error:
            shutil.rmtree(checkpoint.path, ignore_errors=True)
            raise CheckpointError(f"{checkpoint}: not uploaded: {error}") from None
        for old in Checkpoint.all_in(self.directory):
            if old != checkpoint:
                for file in old.files():
                    if file != old.manifest:
                        file.unlink(missing_ok=True)

    def rewrite(self, checkpoint: Checkpoint) -> None:
        """Upload the manifest."""
        self._objects.write(checkpoint.manifest.relative_to(self.directory).as_posix(), checkpoint.manifest.read_bytes())

    def move(self, checkpoint: Checkpoint, path: Path) -> None:
        """Give a checkpoint another folder: its manifest is written there and deleted here, its files stay."""
        if path.name != checkpoint.path.name:
            raise CheckpointError(f"{checkpoint}: must keep its name in an object store, got {path.name!r}")
        before, after = (one.relative_to(self.directory).as_posix() for one in (checkpoint.path, path))
        self._objects.write(f"{after}/{MANIFEST}", checkpoint.manifest.read_bytes())
        self._objects.delete([f"{before}/{MANIFEST}"])
        checkpoint.path.rename(path)

    def promote(self, checkpoint: Checkpoint, channel: str) -> Checkpoint:
        """Write the manifest into the channel as well, then delete the others there. A crash leaves the former one, or both."""
        name, home = checkpoint.path.name, f"{CHANNELS}/{channel}/"
        with self.reading(checkpoint):
            self.check(checkpoint)
            before = {name_of(key) for key in self._objects.list(home) if is_manifest(key)}
            if name not in before:
                self._add_manifest(f"{home}{name}/{MANIFEST}", checkpoint)
        for other in sorted(before - {name}):
            self._objects.delete_below(f"{home}{other}/")
        return Checkpoint(self.directory / home / name)

    def _add_manifest(self, key: str, checkpoint: Checkpoint) -> None:
        """Write a further manifest of a leased checkpoint, unless its files were deleted meanwhile.

        Raises:
            CheckpointError: the lease had expired, and they are being deleted or are gone.
        """
        self._objects.write(key, checkpoint.manifest.read_bytes())
        try:
            # Whoever marks the files from now on finds this manifest.
            if self._leases.is_marked(checkpoint.path.name):
                raise CheckpointError(f"{checkpoint.path.name}: is being deleted")
            self.check(checkpoint)
        except CheckpointError:
            self._objects.delete_below(key.removesuffix(MANIFEST))
            raise

    def take_aside(self, checkpoint: Checkpoint) -> Checkpoint:
        """Write the manifest of a checkpoint in a channel to those put aside, unless the trainer or they have the same checkpoint."""
        name = checkpoint.path.name
        aside = Checkpoint(self.directory / ASIDE / name)
        for known in (Checkpoint(self.directory / name), aside):
            if known.manifest.exists():
                return known
        value = checkpoint.manifest.read_bytes()
        with self.reading(checkpoint):
            self._add_manifest(f"{ASIDE}/{name}/{MANIFEST}", checkpoint)
        _write(aside.manifest, lambda part: part.write_bytes(value))
        return aside

    def prune(self, retention: Retention, newest: Checkpoint) -> None:
        """Delete as in a folder; also files of uploads that were cut off, and of checkpoints that have left their last channel."""
        super().prune(retention, newest)
        try:
            for name in sorted(names_without_manifest(self._objects.list())):
                if self._leases.may_delete(name):
                    if name in names_without_manifest(self._objects.list()):  # promoted meanwhile
                        self._objects.delete_below(f"{name}/")
                    self._leases.forget(name)
        except ObjectError as error:
            _logger.warning("files without a manifest stay: %s", error)

    def _names_beside(self) -> tuple[set[str], set[str]]:
        kept, abandoned = self._names
        return set(kept), set(abandoned)

    def _delete(self, checkpoint: Checkpoint) -> None:
        """Delete the manifest, so that the checkpoint is none, then its files, unless a channel has it or a rollback has put it aside."""
        name = checkpoint.path.name
        self._objects.delete([f"{name}/{MANIFEST}"])
        if name in names_without_manifest(self._objects.list()):
            self._objects.delete_below(f"{name}/")
        super()._delete(checkpoint)


def _size(path: Path) -> int:
    """Return the size of a file, -1 if there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return -1


def _write(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file beside its name, then rename it."""
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(part)
        part.replace(path)
    except OSError as error:
        raise CheckpointError(f"{path}: {error}") from None


def _in_threads(act: Callable[[_Item], None], items: Iterable[_Item]) -> None:
    """Call `act` on each item, some at the same time; raise the first error after all have ended."""
    with ThreadPoolExecutor(_TRANSFERS, thread_name_prefix="transfer") as pool:
        for one in [pool.submit(act, item) for item in items]:
            one.result()


def _own_folder(root: Path, role: str) -> tuple[Path, int]:
    """Return a folder of local copies that no other store uses, and the descriptor of its lock, which the system frees with the process."""
    for number in range(_MOST_PROCESSES):
        folder = root / f"{role}-{number}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise CheckpointError(f"objects.cache_dir must be a folder that can be written: {folder}: {error}") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            continue
        return folder, lock
    raise ConfigError(f"objects.cache_dir must have at most {_MOST_PROCESSES} processes of a job, got more in {root}")
