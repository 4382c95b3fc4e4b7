"""Checkpoints of a job in an object store, with copies in a local folder.

PREFIX/<checkpoint>/<file>                        as in the folder of a checkpoint; manifest.json is written last
PREFIX/rolled-back/<checkpoint>/manifest.json     instead of the one above, for a checkpoint put aside; its files stay
PREFIX/leases/...                                 as in a folder
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
from monolith_py.training.checkpoint.layout import ASIDE, Checkpoint, Part
from monolith_py.training.checkpoint.store import CheckpointStore, Retention

_logger = logging.getLogger(__name__)

# Files transferred at the same time.
_TRANSFERS = 4
# Processes of one job on a machine, each with a folder of its own.
_MOST_PROCESSES = 256
_MANIFEST = "manifest.json"
_Item = TypeVar("_Item")


def open_checkpoints(job: JobConfig, role: str, clock: Clock) -> CheckpointStore:
    """Return the checkpoints of a job at `trainer.checkpoint_dir`; `role` names the local folder of an object store.

    Raises:
        ConfigError: the location is a URL of another scheme.
        CheckpointError: there is no room for local copies.
    """
    location, folder = job.trainer.checkpoint_dir, local_folder(job)
    if not is_object_url(location):
        return CheckpointStore(folder, clock)
    objects = open_objects(location, job.objects)
    own, lock = _own_folder(folder, role)
    store = ObjectCheckpointStore(own, objects, clock)
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
    known = {one.path.name: one for one in store.all()}
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

    def __init__(self, directory: Path, objects: Objects, clock: Clock) -> None:
        super().__init__(directory, clock, objects)
        self._objects = objects
        self._known: dict[str, ObjectInfo] = {}  # key -> version of the manifest that is in `directory`

    def all(self) -> list[Checkpoint]:
        """Return the checkpoints in the store, newest first; copies of others are deleted."""
        listed = self._objects.list()
        manifests = {key: info for key, info in listed.items() if _is_manifest(key)}
        for key, info in manifests.items():
            path = self.directory / key
            if self._known.get(key) != info or not path.exists():
                try:
                    value = self._objects.read(key)
                except ObjectMissing:  # deleted meanwhile
                    continue
                _write(path, lambda part, value=value: part.write_bytes(value))  # type: ignore[misc]
                self._known[key] = info
        for folder in (self.directory, self.directory / ASIDE):
            for one in Checkpoint.all_in(folder):
                if one.manifest.relative_to(self.directory).as_posix() not in manifests:
                    shutil.rmtree(one.path, ignore_errors=True)
        return Checkpoint.all_in(self.directory)

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
        self._objects.write(f"{after}/{_MANIFEST}", checkpoint.manifest.read_bytes())
        self._objects.delete([f"{before}/{_MANIFEST}"])
        checkpoint.path.rename(path)

    def prune(self, retention: Retention, newest: Checkpoint) -> None:
        """Delete as in a folder; also files of uploads that were cut off."""
        super().prune(retention, newest)
        try:
            listed = self._objects.list()
            known = {Path(key).parent.name for key in listed if _is_manifest(key)}
            for name in sorted({key.partition("/")[0] for key in listed if key.startswith("step-")} - known):
                self._objects.delete_below(f"{name}/")
        except ObjectError as error:
            _logger.warning("files of uploads that were cut off stay: %s", error)

    def _delete(self, checkpoint: Checkpoint) -> None:
        """Delete the manifest, so that the checkpoint is none, then its files."""
        name = checkpoint.path.name
        self._objects.delete([f"{name}/{_MANIFEST}"])
        self._objects.delete_below(f"{name}/")
        super()._delete(checkpoint)


def _is_manifest(key: str) -> bool:
    parts = key.removeprefix(f"{ASIDE}/").split("/")
    return len(parts) == 2 and parts[0].startswith("step-") and parts[1] == _MANIFEST


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
