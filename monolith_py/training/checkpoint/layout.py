"""Layout of a checkpoint: its folder, its files and their formats. No other module knows them.

<directory>/step-000000001234/manifest.json           version, meta, model, and size and CRC-32C of every other file
                              tables/<feature>.table  rows, optimizer state, admission, ages, pending drains
                              tables/<feature>.table.0001  their changes until a later moment, in order
                              serving/<feature>.rows  rows packed in sync.encoding, for replicas
                              dense.safetensors       dense parameters of the model
                              optimizer.safetensors   state of the dense optimizer, random state of torch

A later checkpoint of the same step is beside it, step-000000001234.0001, so that there is one at every moment.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from monolith_py.data.layout import Layout
from monolith_py.data.steps import JoinerStep
from monolith_py.errors import CheckpointError, CheckpointVersion
from monolith_py.table import packed_file, table_file, table_parts
from monolith_py.training.checkpoint.fingerprint import Fingerprints, fingerprint_of
from monolith_py.training.checkpoint.meta import CheckpointMeta, ModelMeta, SourceMeta, partition_offsets
from monolith_py.training.quality import Quality

Arrays = dict[str, npt.NDArray[Any]]

_logger = logging.getLogger(__name__)

# 2: the dense parameters are in dense.safetensors, and sparse layers have a `topology_version`.
# 3: the manifest has the settings and the layout of the model.
# 4: tables may have increments. A checkpoint without is of version 3.
VERSION, _VERSION_OF_INCREMENTS = 3, 4
_TABLES, _SERVING, _DENSE, _OPTIMIZER, _MANIFEST = "tables", "serving", "dense.safetensors", "optimizer.safetensors", "manifest.json"
# Folders beside the checkpoints, of those put aside by a rollback and of the channels; start of the name of one that is being deleted.
ASIDE, CHANNELS, DELETED = "rolled-back", "channels", ".deleted-"


class Part(Enum):
    """Files of a checkpoint that a process reads."""

    ALL = "all"
    TRAINING = "training"  # all but the packed rows
    SERVING = "serving"  # dense parameters and packed rows


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
        # Names put aside and in channels are not used again: in an object store their files stay where they are.
        folders = [directory, directory / ASIDE, *(directory / CHANNELS).glob("*")]
        others = [path for folder in folders for path in _others_of(folder, step)]
        return Checkpoint.at(directory, step, max((_revision(path) + 1 for path in others), default=0))

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
                checkpoint.verify(Part.TRAINING)
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

    def table_parts(self, name: str) -> list[Path]:
        """Return the snapshot file of one table and those of its increments, in order: `EmbeddingTable.restore(*parts)`."""
        return table_parts(self.table(name))

    @property
    def serving(self) -> Path:
        """Return the folder of the packed rows."""
        return self.path / _SERVING

    def packed(self, name: str) -> Path:
        """Return the file of the packed rows of one table."""
        return packed_file(self.serving, name)

    def has_packed(self, names: Iterable[str]) -> bool:
        """Return whether packed rows of all tables `names` were written."""
        files = self._manifest()["files"]
        return all(str(self.packed(name).relative_to(self.path)) in files for name in names)

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
            meta["offsets"] = partition_offsets(meta["offsets"])
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

    def dense(self) -> Arrays:
        """Return the dense parameters by name."""
        return _load(self.path / _DENSE)

    def optimizer(self) -> Arrays:
        """Return the state of the dense optimizer and the random state of torch, by name."""
        return _load(self.path / _OPTIMIZER)

    def write(self, meta: CheckpointMeta, model: ModelMeta, dense: Arrays, optimizer: Arrays, known: Fingerprints | None = None) -> None:
        """Write every file but the tables, which must be complete: the manifest lists them. `known`: fingerprints of linked files.

        Raises:
            CheckpointError: a file cannot be written.
        """
        try:
            for file, arrays in ((_DENSE, dense), (_OPTIMIZER, optimizer)):
                # safetensors writes the memory of an array from its first element on, whatever its strides.
                save_file({name: np.asarray(array, order="C") for name, array in arrays.items()}, self.path / file)
            paths = {str(file.relative_to(self.path)): file for file in self.files()}
            files = {name: known[name] if known and name in known else fingerprint_of(file) for name, file in paths.items()}
            described = {"layout": model.layout.document(), "settings": model.settings}
            version = _VERSION_OF_INCREMENTS if any(len(self.table_parts(file.stem)) > 1 for file in self.table_files) else VERSION
            manifest = {"version": version, "meta": meta.document(), "model": described, "files": files}
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

    def verify(self, part: Part = Part.ALL) -> None:
        """Compare the size and CRC-32C of every file of `part` with the manifest. Packed rows of a replica are compared in size alone.

        Raises:
            CheckpointVersion: the checkpoint has another format version.
            CheckpointError: a file is absent, torn or damaged; the message names it.
        """
        for name, expected in self.files_of(part).items():
            is_packed = name.startswith(f"{_SERVING}/")
            file = self.path / name
            try:
                # The chunks of packed rows have checksums, which are compared while they are read.
                got = {**expected, "size": file.stat().st_size} if is_packed and part is Part.SERVING else fingerprint_of(file)
            except OSError as error:
                raise CheckpointError(f"{file}: {error}") from None
            if got != expected:
                raise CheckpointError(f"{file}: torn or damaged, expected {expected}, got {got}")

    def files_of(self, part: Part) -> dict[str, dict[str, int]]:
        """Return size and CRC-32C of the files of `part`, as the manifest has them, by path in the checkpoint."""
        files: dict[str, dict[str, int]] = self._manifest()["files"]
        if part is Part.TRAINING:
            return {name: file for name, file in files.items() if not name.startswith(f"{_SERVING}/")}
        if part is Part.SERVING:
            return {name: file for name, file in files.items() if name.startswith(f"{_SERVING}/") or name == _DENSE}
        return files

    @property
    def manifest(self) -> Path:
        """Return the file of the manifest."""
        return self.path / _MANIFEST

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
        if isinstance(version, int) and version not in (VERSION, _VERSION_OF_INCREMENTS):
            raise CheckpointVersion(self.path, VERSION, version)
        if version is None or not all(isinstance(manifest.get(part), dict) for part in ("meta", "model", "files")):
            raise CheckpointError(f"{file}: must have version, meta, model and files")
        return manifest


def _others_of(directory: Path, step: int) -> list[Path]:
    return list(directory.glob(f"step-{step:012d}*"))


def _revision(path: Path) -> int:
    """Return the number behind the step in the name of a checkpoint, 0 if it has none."""
    match = re.match(r"step-\d{12}\.(\d+)", path.name)
    return int(match[1]) if match else 0


def _load(file: Path) -> Arrays:
    try:
        arrays: Arrays = load_file(file)
    except (OSError, SafetensorError, TypeError) as error:  # TypeError: a dtype that numpy lacks
        raise CheckpointError(f"{file}: {error}") from None
    return arrays
