"""Checkpoints: everything that a trainer knows, with the offsets that say what it has learnt, in one directory that is whole or not there.

    <directory>/step-000000001234/manifest.json           meta, and size and CRC-32C of every other file
                                  tables/<feature>.table  rows, optimizer state, admission, ages, pending drains
                                  dense.safetensors      the model's dense parameters
                                  optimizer.safetensors   what learns them, in the middle of whatever it does; torch's random state

A checkpoint is written beside its name while training goes on, brought to the disk and renamed; readers take the newest that is complete.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from crc32c import crc32c
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from monolith_py.errors import CheckpointError
from monolith_py.table import TableSaving
from monolith_py.training.trainer import Trainer

_logger = logging.getLogger(__name__)

_VERSION = 1
_ROUNDS = 8


@dataclass(frozen=True)
class CheckpointMeta:
    """What a checkpoint says of itself."""

    job: str
    step: int  # batches learnt
    examples_trained: int
    generation: int  # of the trainer that wrote it
    next_seq: int  # of the next delta of that generation
    updates_offset: int  # offset in `updates` after the last delta that this checkpoint holds
    offsets: dict[int, tuple[int, int]]  # partition of `examples` -> (offset, row) of the next example
    watermark_ms: int  # event time
    saved_ms: int  # wall clock


class CheckpointSaving:
    """A checkpoint that is written while training goes on.

    1. A thread copies the tables, shard by shard, then what has changed meanwhile, until little is left: `is_copied`.
    2. `freeze`, between two steps, copies that rest, the dense parameters and their optimizer in memory: the checkpoint is of this moment.
    3. The thread brings all of it to the disk and gives it its name: `is_written`; `wait` returns the path.
    """

    def __init__(self, directory: Path, trainer: Trainer, *, keep: int) -> None:
        """Begin; of the checkpoints in `directory` the newest `keep` stay. One at a time writes there."""
        self._directory, self._trainer, self._keep = directory, trainer, keep
        self._temporary = directory / ".saving.tmp"
        self._tables: list[TableSaving] = []
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._copied: Future[None] = self._worker.submit(self._copy)
        self._written: Future[Path] | None = None

    @property
    def is_copied(self) -> bool:
        """Return whether `freeze` would be short now."""
        return self._copied.done()

    @property
    def is_frozen(self) -> bool:
        """Return whether the moment of the checkpoint has been."""
        return self._written is not None

    @property
    def is_written(self) -> bool:
        """Return whether `wait` would not wait."""
        return self._written is not None and self._written.done()

    def freeze(self, meta: CheckpointMeta) -> None:
        """Let the checkpoint be of this moment, of which `meta` tells; the trainer stands still until this returns.

        Raises:
            CheckpointError: the tables cannot be written.
        """
        try:
            self._copied.result()
            for table in self._tables:
                table.finish()
        except BaseException:
            self._worker.shutdown()
            self._give_up()
            raise
        dense = self._trainer.export_dense()
        optimizer = {name: value.clone() for name, value in _optimizer_tensors(self._trainer).items()}
        self._written = self._worker.submit(self._write, meta, dense, optimizer)

    def wait(self) -> Path:
        """Return the path of the checkpoint once it is whole and on the disk.

        Raises:
            CheckpointError: it cannot be written; what was there before is as it was.
        """
        assert self._written is not None
        try:
            return self._written.result()
        finally:
            self._worker.shutdown()

    def _give_up(self) -> None:
        for table in self._tables:
            table.cancel()
        shutil.rmtree(self._temporary, ignore_errors=True)

    def _copy(self) -> None:
        try:
            shutil.rmtree(self._temporary, ignore_errors=True)
            (self._temporary / "tables").mkdir(parents=True)
        except OSError as error:
            raise CheckpointError(f"{self._temporary}: {error}") from None
        self._tables = self._trainer.bags.start_saving(self._temporary / "tables")
        # Tables that were copied first have changed while the others were: round by round, there is less to do.
        for _ in range(_ROUNDS):
            num_copied = 0
            for table in self._tables:
                while table.copy():
                    num_copied += 1
            if num_copied == 0:
                break

    def _write(self, meta: CheckpointMeta, dense: dict[str, Tensor], optimizer: dict[str, Tensor]) -> Path:
        path, temporary = self._directory / f"step-{meta.step:012d}", self._temporary
        try:
            for table in self._tables:
                table.commit()
            save_file(dense, temporary / "dense.safetensors")
            save_file(optimizer, temporary / "optimizer.safetensors")
            files = {str(file.relative_to(temporary)): _fingerprint(file) for file in _files(temporary)}
            manifest = {"version": _VERSION, "meta": asdict(meta), "files": files}
            (temporary / "manifest.json").write_text(json.dumps(manifest, indent=1))
            for file in [*_files(temporary), temporary / "tables", temporary]:
                _sync(file)
            if path.exists():  # the same step again: nothing was learnt since
                shutil.rmtree(path)
            temporary.rename(path)
            _sync(self._directory)
        except (OSError, SafetensorError, CheckpointError) as error:
            self._give_up()
            raise error if isinstance(error, CheckpointError) else CheckpointError(f"{path}: {error}") from None
        for old in _checkpoints(self._directory)[self._keep :]:
            shutil.rmtree(old, ignore_errors=True)
        return path


def save_checkpoint(directory: Path, trainer: Trainer, meta: CheckpointMeta, *, keep: int) -> Path:
    """Write a checkpoint, let go of all but the newest `keep`, and return its path.

    Raises:
        CheckpointError: it cannot be written; what was there before is as it was.
    """
    saving = CheckpointSaving(directory, trainer, keep=keep)
    saving.freeze(meta)
    return saving.wait()


def newest_checkpoint(directory: Path) -> Path | None:
    """Return the newest checkpoint that is complete and undamaged, None where there is none; others are named in the log."""
    path, refused = newest_intact(directory)
    for error in refused:
        _logger.error("checkpoint refused: %s", error)
    return path


def newest_intact(directory: Path) -> tuple[Path | None, list[CheckpointError]]:
    """Return the newest checkpoint that is complete and undamaged, None where there is none, and why newer ones are refused."""
    refused = []
    for path in _checkpoints(directory):
        try:
            verify_checkpoint(path)
        except CheckpointError as error:
            refused.append(error)
        else:
            return path, refused
    return None, refused


def verify_checkpoint(path: Path) -> None:
    """Hold every file of the checkpoint at `path` against its manifest.

    Raises:
        CheckpointError: a file is absent, torn or damaged; the message names it.
    """
    for name, expected in _manifest(path)["files"].items():
        try:
            got = _fingerprint(path / name)
        except OSError as error:
            raise CheckpointError(f"{path / name}: {error}") from None
        if got != expected:
            raise CheckpointError(f"{path / name}: torn or damaged, expected {expected}, got {got}")


def read_meta(path: Path) -> CheckpointMeta:
    """Return what the checkpoint at `path` says of itself.

    Raises:
        CheckpointError: it has no readable manifest.
    """
    meta = dict(_manifest(path)["meta"])
    try:
        meta["offsets"] = {int(partition): (int(offset), int(row)) for partition, (offset, row) in meta["offsets"].items()}
        return CheckpointMeta(**meta)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path / 'manifest.json'}: {type(error).__name__}: {error}") from None


def restore_checkpoint(path: Path, trainer: Trainer, job: str) -> CheckpointMeta:
    """Fill `trainer`, which must be new, with the checkpoint at `path`, and return its meta.

    Raises:
        CheckpointError: the checkpoint is of another job, or does not fit the trainer's settings.
    """
    meta = read_meta(path)
    if meta.job != job:
        raise CheckpointError(f"{path}: is of job {meta.job!r}, expected {job!r}")
    trainer.bags.restore(path / "tables")
    try:
        trainer.model.load_state_dict(load_file(path / "dense.safetensors"))
        _restore_optimizer(trainer, load_file(path / "optimizer.safetensors"))
    except (OSError, SafetensorError, RuntimeError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path}: does not fit this job's model: {error}") from None
    trainer.resume(num_batches=meta.step, num_examples=meta.examples_trained, watermark_ms=meta.watermark_ms)
    return meta


def _checkpoints(directory: Path) -> list[Path]:
    """Return the checkpoint directories, newest first."""
    return sorted((path for path in directory.glob("step-*") if path.is_dir()), reverse=True)


def _files(path: Path) -> Iterator[Path]:
    return (file for file in sorted(path.rglob("*")) if file.is_file())


def _fingerprint(file: Path) -> dict[str, int]:
    crc, size = 0, 0
    with file.open("rb") as stream:
        while block := stream.read(1 << 22):
            crc, size = crc32c(block, crc), size + len(block)
    return {"size": size, "crc32c": crc}


def _manifest(path: Path) -> dict[str, Any]:
    file = path / "manifest.json"
    try:
        manifest: dict[str, Any] = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: {error}") from None
    if not isinstance(manifest, dict) or manifest.get("version") != _VERSION:
        raise CheckpointError(f"{file}: must be a manifest of version {_VERSION}")
    if not all(isinstance(manifest.get(part), dict) for part in ("meta", "files")):
        raise CheckpointError(f"{file}: must have meta and files")
    return manifest


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _optimizer_tensors(trainer: Trainer) -> dict[str, Tensor]:
    return {"rng": torch.get_rng_state()} | trainer.optimizer.state()


def _restore_optimizer(trainer: Trainer, tensors: dict[str, Tensor]) -> None:
    torch.set_rng_state(tensors.pop("rng"))
    trainer.optimizer.restore(tensors)
