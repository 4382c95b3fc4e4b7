"""Snapshots of several tables together: all of one moment, in files or in tensors.

`save` writes `tables.json` beside the files: the number of each snapshot, by table. `restore` refuses files of different calls.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from monolith_py.errors import CheckpointError
from monolith_py.table.embedding_table import EmbeddingTable
from monolith_py.table.saving import TableSaving, table_file
from monolith_py.table.table_settings import read_snapshot_id

_LIST = "tables.json"
Tables = Mapping[str, EmbeddingTable]


def save(tables: Tables, directory: Path) -> None:
    """Write a snapshot of each table and their list to `directory`, all or none.

    Raises:
        CheckpointError: a file cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".saving-", dir=directory))
    except OSError as error:
        raise CheckpointError(f"{directory}: {error.strerror}") from None
    try:
        numbers = _write(tables, temporary)
        (temporary / _LIST).write_text(json.dumps(numbers, indent=1))
        for name in tables:
            os.replace(table_file(temporary, name), table_file(directory, name))
        os.replace(temporary / _LIST, directory / _LIST)
    except OSError as error:
        raise CheckpointError(f"{directory}: {error.strerror}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def restore(tables: Tables, empty: Tables, directory: Path) -> None:
    """Fill `tables` with the snapshots in `directory`, by way of the `empty` tables of the same settings.

    Raises:
        CheckpointError: a table is not empty, or a file is absent, damaged, of other settings or of another call of `save`.
    """
    if filled := [name for name, table in tables.items() if len(table) or table.core.snapshot_id]:
        raise CheckpointError(f"tables must be empty to be restored, got rows in {filled}")
    try:
        listed = json.loads((directory / _LIST).read_text())
    except FileNotFoundError:  # a checkpoint, which is renamed as a whole
        listed = {}
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{directory / _LIST}: cannot be read: {error}") from None
    for name in tables:
        file = table_file(directory, name)
        if name in listed and read_snapshot_id(file) != listed[name]:
            raise CheckpointError(f"{file}: is of another call of save than {_LIST}: a save was interrupted")
    _fill(tables, empty, directory)


def to_tensors(tables: Tables) -> dict[str, Tensor]:
    """Return the snapshot of each table as uint8 (bytes,)."""
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        _write(tables, directory)
        return {name: torch.from_numpy(np.fromfile(table_file(directory, name), np.uint8)) for name in tables}


def from_tensors(tables: Tables, empty: Tables, state: Mapping[str, Tensor]) -> None:
    """Replace the content of `tables` by the snapshots in `state`, by way of the `empty` tables of the same settings.

    Raises:
        CheckpointError: a table is missing, or a snapshot is damaged or of other settings.
    """
    if missing := sorted(set(tables) - set(state)):
        raise CheckpointError(f"state of EmbeddingBags must have the tables {sorted(tables)}, got none for {missing}")
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        for name in tables:
            state[name].cpu().numpy().tofile(table_file(directory, name))
        _fill(tables, empty, directory)


def _write(tables: Tables, directory: Path) -> dict[str, int]:
    """Write a snapshot of each table, all of this moment; return their numbers."""
    savings: list[TableSaving] = []
    try:
        for name, table in tables.items():
            savings.append(table.start_saving(table_file(directory, name)))
            savings[-1].finish()
        for saving in savings:
            saving.commit()
    except BaseException:
        for saving in savings:
            saving.cancel()
        raise
    return {name: table.core.snapshot_id for name, table in tables.items()}


def _fill(tables: Tables, empty: Tables, directory: Path) -> None:
    for name, table in empty.items():
        table.restore_from(table_file(directory, name))
    for name, table in empty.items():
        tables[name].core = table.core
