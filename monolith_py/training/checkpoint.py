"""Checkpoints: everything that a trainer knows, with the offsets that say what it has learnt, in one directory that is whole or not there.

    <directory>/step-000000001234/manifest.json           meta, and size and CRC-32C of every other file
                                  tables/<feature>.table  rows, optimizer state, admission, ages, pending drains
                                  towers.safetensors      the model's dense parameters
                                  optimizer.safetensors   Adam's moments and step counts, torch's random state

A checkpoint is written beside its name, brought to the disk and renamed; readers take the newest that is complete.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from crc32c import crc32c
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from monolith_py.errors import CheckpointError
from monolith_py.training.trainer import Trainer

_logger = logging.getLogger(__name__)

_VERSION = 1


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


def save_checkpoint(directory: Path, trainer: Trainer, meta: CheckpointMeta, *, keep: int) -> Path:
    """Write a checkpoint, let go of all but the newest `keep`, and return its path.

    Raises:
        CheckpointError: it cannot be written; what was there before is as it was.
    """
    path = directory / f"step-{meta.step:012d}"
    temporary = directory / f".{path.name}.tmp"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        (temporary / "tables").mkdir(parents=True)
        trainer.bags.save(temporary / "tables")
        save_file(trainer.export_towers(), temporary / "towers.safetensors")
        save_file(_optimizer_tensors(trainer), temporary / "optimizer.safetensors")
        files = {str(file.relative_to(temporary)): _fingerprint(file) for file in _files(temporary)}
        manifest = {"version": _VERSION, "meta": asdict(meta), "files": files}
        (temporary / "manifest.json").write_text(json.dumps(manifest, indent=1))
        for file in [*_files(temporary), temporary / "tables", temporary]:
            _sync(file)
        if path.exists():  # the same step again: nothing was learnt since
            shutil.rmtree(path)
        temporary.rename(path)
        _sync(directory)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(f"{path}: {error}") from None
    for old in _checkpoints(directory)[keep:]:
        shutil.rmtree(old, ignore_errors=True)
    return path


def newest_checkpoint(directory: Path) -> Path | None:
    """Return the newest checkpoint that is complete and undamaged, None where there is none; others are named in the log."""
    for path in _checkpoints(directory):
        try:
            _verify(path)
        except CheckpointError as error:
            _logger.error("checkpoint refused: %s", error)
        else:
            return path
    return None


def read_meta(path: Path) -> CheckpointMeta:
    """Return what the checkpoint at `path` says of itself.

    Raises:
        CheckpointError: it has no readable manifest.
    """
    meta = dict(_manifest(path)["meta"])
    meta["offsets"] = {int(partition): (int(offset), int(row)) for partition, (offset, row) in meta["offsets"].items()}
    try:
        return CheckpointMeta(**meta)
    except TypeError as error:
        raise CheckpointError(f"{path / 'manifest.json'}: {error}") from None


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
        trainer.model.load_state_dict(load_file(path / "towers.safetensors"))
        _restore_optimizer(trainer, load_file(path / "optimizer.safetensors"))
    except (OSError, SafetensorError, RuntimeError, KeyError) as error:
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
    if not isinstance(manifest, dict) or manifest.get("version") != _VERSION or not {"meta", "files"} <= manifest.keys():
        raise CheckpointError(f"{file}: must be a manifest of version {_VERSION}")
    return manifest


def _verify(path: Path) -> None:
    for name, expected in _manifest(path)["files"].items():
        try:
            got = _fingerprint(path / name)
        except OSError as error:
            raise CheckpointError(f"{path / name}: {error}") from None
        if got != expected:
            raise CheckpointError(f"{path / name}: torn or damaged, expected {expected}, got {got}")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _optimizer_tensors(trainer: Trainer) -> dict[str, Tensor]:
    tensors = {"rng": torch.get_rng_state()}
    for name, parameter in trainer.model.named_parameters():
        for field, value in trainer.optimizer.state.get(parameter, {}).items():
            tensors[f"{field}.{name}"] = value.contiguous()
    return tensors


def _restore_optimizer(trainer: Trainer, tensors: dict[str, Tensor]) -> None:
    torch.set_rng_state(tensors.pop("rng"))
    parameters = dict(trainer.model.named_parameters())
    for key, value in tensors.items():
        field, _, name = key.partition(".")
        trainer.optimizer.state[parameters[name]][field] = value
