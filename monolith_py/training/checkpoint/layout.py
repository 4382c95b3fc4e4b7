"""Layout of a checkpoint: its folder, its files and their formats. No other module knows them.

<directory>/step-000000001234/manifest.json           version, meta, model, and size and CRC-32C of every other file
                              tables/<feature>.table  rows, optimizer state, admission, ages, pending drains
                              dense.safetensors       dense parameters of the model
                              optimizer.safetensors   state of the dense optimizer, random state of torch

A later checkpoint of the same step is beside it, step-000000001234.0001, so that there is one at every moment.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from crc32c import crc32c
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from monolith_py.data.layout import Layout
from monolith_py.data.steps import JoinerStep
from monolith_py.errors import CheckpointError, CheckpointVersion
from monolith_py.table import table_file
from monolith_py.training.quality import Quality

_logger = logging.getLogger(__name__)

# 2: the dense parameters are in dense.safetensors, and sparse layers have a `topology_version`.
# 3: the manifest has the settings and the layout of the model.
VERSION = 3
_TABLES, _DENSE, _OPTIMIZER, _MANIFEST = "tables", "dense.safetensors", "optimizer.safetensors", "manifest.json"
_BLOCK_BYTES = 1 << 22


@dataclass(frozen=True)
class SourceMeta:
    """Backfill of a trainer, or a start inside the job's examples."""

    name: str  # options of the trainer that began it
    topic: str  # of the backfill
    offsets: dict[int, tuple[int, int]]  # partition of `topic` -> (offset, row) of the next example
    live_from_ms: int  # event time from which on the job's examples are learnt
    is_done: bool  # whether the trainer has gone on to the job's examples

    @staticmethod
    def from_document(document: Mapping[str, Any]) -> SourceMeta:
        """Return the source of a JSON document."""
        return SourceMeta(**{**document, "offsets": _offsets(document["offsets"])})


@dataclass(frozen=True)
class CheckpointMeta:
    """State of the training at the moment of a checkpoint."""

    job: str
    step: int  # batches learnt
    examples_trained: int
    generation: int  # of the trainer that wrote it
    next_seq: int  # of the next delta of that generation
    updates_offset: int  # offset in `updates` after the last delta that this checkpoint holds
    offsets: dict[int, tuple[int, int]]  # partition of `examples` -> (offset, row) of the next example
    watermark_ms: int  # event time
    saved_ms: int  # wall clock
    quality: tuple[Quality, ...] = ()  # of the last predictions of each task; none in older checkpoints
    steps: dict[int, JoinerStep] = field(default_factory=dict)  # partition of `examples` -> last step before its offset
    examples_topic: str = ""  # id of the topic whose offsets these are; none in older checkpoints
    model_id: str = ""  # of the model since its tables were last started anew: no replica mixes two
    source: SourceMeta | None = None  # None: the job's examples from their start
    parent: str = ""  # "generation.seq" of the checkpoint from which the generation started; "" for a new model
    digest: str = ""  # of rows and dense parameters, `monolith_py.sync.ModelDigest`; "" before the first update

    def document(self) -> dict[str, Any]:
        """Return the meta as a JSON document."""
        return {**asdict(self), "quality": [quality.document() for quality in self.quality]}


@dataclass(frozen=True)
class ModelMeta:
    """Settings and layout of the model in a checkpoint. Settings are plain values: those of another release need not load any more."""

    layout: Layout
    settings: Mapping[str, Any]  # sections seed, features, tasks, model and optimizer of the job


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint folder; `str` gives its path. Methods that read raise CheckpointError for a file that is absent or damaged.

    >>> print(Checkpoint(Path("shop/step-000000001234")).table("user_id"))
    shop/step-000000001234/tables/user_id.table
    """

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    @staticmethod
    def at(directory: Path, step: int, revision: int = 0) -> Checkpoint:
        """Return a checkpoint of `step` batches in `directory`, written or not."""
        return Checkpoint(directory / (f"step-{step:012d}" + (f".{revision:04d}" if revision else "")))

    @staticmethod
    def next_at(directory: Path, step: int) -> Checkpoint:
        """Return a checkpoint of `step` batches that sorts after all others of that step in `directory`."""
        newest = max(_others_of(directory, step), default=None)
        return Checkpoint.at(directory, step, 0 if newest is None else 1 + int(newest.name[len("step-") + 13 :] or 0))

    @staticmethod
    def all_in(directory: Path) -> list[Checkpoint]:
        """Return the checkpoints in `directory`, newest first, damaged ones included."""
        return [Checkpoint(path) for path in sorted(directory.glob("step-*"), reverse=True) if path.is_dir()]

    @staticmethod
    def newest(directory: Path) -> Checkpoint | None:
        """Return the newest intact checkpoint in `directory`, None if there is none; log each damaged one as an error.

        Raises:
            CheckpointVersion: a newer checkpoint has another format version.
        """
        checkpoint, refused = Checkpoint.newest_intact(directory)
        for error in refused:
            _logger.error("checkpoint refused: %s", error)
        return checkpoint

    @staticmethod
    def newest_intact(directory: Path) -> tuple[Checkpoint | None, list[CheckpointError]]:
        """Return the newest intact checkpoint in `directory`, None if there is none, and the errors of damaged newer ones.

        Raises:
            CheckpointVersion: a newer checkpoint has another format version. It is not damaged: to pass it over would lose what it holds.
        """
        refused = []
        for checkpoint in Checkpoint.all_in(directory):
            try:
                checkpoint.verify()
            except CheckpointVersion:
                raise
            except CheckpointError as error:
                refused.append(error)
            else:
                return checkpoint, refused
        return None, refused

    @staticmethod
    def is_at(path: Path) -> bool:
        """Return whether `path` is a checkpoint, damaged or not, rather than a folder of checkpoints."""
        return path.name.startswith("step-") or (path / _MANIFEST).exists()

    @property
    def tables(self) -> Path:
        """Return the folder of the tables."""
        return self.path / _TABLES

    def table(self, name: str) -> Path:
        """Return the snapshot file of one table."""
        return table_file(self.tables, name)

    @property
    def table_files(self) -> list[Path]:
        """Return the snapshot files of all tables, sorted by name."""
        return sorted(self.tables.glob(table_file(Path(), "*").name))

    def earlier_of_step(self) -> list[Checkpoint]:
        """Return the earlier checkpoints of the same step."""
        step = int(self.path.name.removeprefix("step-")[:12])
        return [Checkpoint(path) for path in _others_of(self.path.parent, step) if path.name < self.path.name]

    @cached_property
    def meta(self) -> CheckpointMeta:
        """Return the meta of the manifest, read once."""
        meta = dict(self._manifest()["meta"])
        try:
            meta["offsets"] = _offsets(meta["offsets"])
            meta["source"] = SourceMeta.from_document(meta["source"]) if meta.get("source") else None
            steps = meta.get("steps", {})
            meta["steps"] = {int(partition): JoinerStep._make(step) for partition, step in steps.items()}
            meta["quality"] = tuple(Quality.from_document(document) for document in meta.get("quality", ()))
            return CheckpointMeta(**meta)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise CheckpointError(f"{self.path / _MANIFEST}: {type(error).__name__}: {error}") from None

    @cached_property
    def model(self) -> ModelMeta:
        """Return settings and layout of the model, read once."""
        document = self._manifest()["model"]
        try:
            return ModelMeta(Layout.from_document(document["layout"]), dict(document["settings"]))
        except (TypeError, ValueError, KeyError) as error:
            raise CheckpointError(f"{self.path / _MANIFEST}: {type(error).__name__}: {error}") from None

    def dense(self) -> dict[str, Tensor]:
        """Return the dense parameters by name, on the CPU."""
        return _load(self.path / _DENSE)

    def optimizer(self) -> dict[str, Tensor]:
        """Return the state of the dense optimizer and the random state of torch, by name."""
        return _load(self.path / _OPTIMIZER)

    def write(self, meta: CheckpointMeta, model: ModelMeta, dense: dict[str, Tensor], optimizer: dict[str, Tensor]) -> None:
        """Write every file but the tables, which must be complete: the manifest lists them.

        Raises:
            CheckpointError: a file cannot be written.
        """
        try:
            save_file(dense, self.path / _DENSE)
            save_file(optimizer, self.path / _OPTIMIZER)
            files = {str(file.relative_to(self.path)): _fingerprint(file) for file in self.files()}
            described = {"layout": model.layout.document(), "settings": model.settings}
            manifest = {"version": VERSION, "meta": meta.document(), "model": described, "files": files}
            (self.path / _MANIFEST).write_text(json.dumps(manifest, indent=1))
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{self.path}: {error}") from None

    def set_offsets(self, offsets: Mapping[int, tuple[int, int]]) -> None:
        """Change the positions in the examples at which a trainer goes on; the joiner's steps before a changed one are forgotten.

        Raises:
            CheckpointError: the manifest cannot be read or written.
        """
        manifest, known = dict(self._manifest()), self.meta
        steps = {partition: step for partition, step in known.steps.items() if offsets.get(partition) == known.offsets.get(partition)}
        manifest["meta"] = replace(known, offsets=dict(offsets), steps=steps).document()
        temporary = self.path.with_name(f".{self.path.name}.manifest")
        try:
            with temporary.open("w") as stream:
                stream.write(json.dumps(manifest, indent=1))
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(self.path / _MANIFEST)
        except OSError as error:
            raise CheckpointError(f"{self.path / _MANIFEST}: {error}") from None
        self.__dict__.pop("meta", None)

    def verify(self) -> None:
        """Compare the size and CRC-32C of every file with the manifest.

        Raises:
            CheckpointVersion: the checkpoint has another format version.
            CheckpointError: a file is absent, torn or damaged; the message names it.
        """
        for name, expected in self._manifest()["files"].items():
            file = self.path / name
            try:
                got = _fingerprint(file)
            except OSError as error:
                raise CheckpointError(f"{file}: {error}") from None
            if got != expected:
                raise CheckpointError(f"{file}: torn or damaged, expected {expected}, got {got}")

    def files(self) -> Iterator[Path]:
        """Return the files of the checkpoint, sorted."""
        return (file for file in sorted(self.path.rglob("*")) if file.is_file())

    def _manifest(self) -> Mapping[str, Any]:
        file = self.path / _MANIFEST
        try:
            manifest: dict[str, Any] = json.loads(file.read_text())
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{file}: {error}") from None
        version = manifest.get("version") if isinstance(manifest, dict) else None
        if isinstance(version, int) and version != VERSION:
            raise CheckpointVersion(self.path, VERSION, version)
        if version is None or not all(isinstance(manifest.get(part), dict) for part in ("meta", "model", "files")):
            raise CheckpointError(f"{file}: must have version, meta, model and files")
        return manifest


def _others_of(directory: Path, step: int) -> list[Path]:
    return list(directory.glob(f"step-{step:012d}*"))


def _offsets(document: Mapping[str, Any]) -> dict[int, tuple[int, int]]:
    """Return partition -> (offset, row)."""
    return {int(partition): (int(offset), int(row)) for partition, (offset, row) in document.items()}


def _load(file: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file}: {error}") from None
    return tensors


def _fingerprint(file: Path) -> dict[str, int]:
    crc, size = 0, 0
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            crc, size = crc32c(block, crc), size + len(block)
    return {"size": size, "crc32c": crc}
