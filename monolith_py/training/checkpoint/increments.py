"""Checkpoints that write the changes since the one before: its table files are linked, and each table gets one more.

Every checkpoint has all the files that a restore needs, so any of them may be deleted, moved or copied without the others. A chain ends
with the trainer, with a failed checkpoint, and after `full_interval` checkpoints: the next one writes the tables as a whole. Packed rows
are in those alone; a replica that starts from another one reads its tables.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from monolith_py.errors import CheckpointError
from monolith_py.table import table_parts
from monolith_py.training.checkpoint.layout import Checkpoint


class IncrementChain:
    """Checkpoints of one trainer since the last one that was written as a whole."""

    def __init__(self, full_interval: int) -> None:
        """Write one of `full_interval` checkpoints as a whole; 1 writes all so."""
        self._full_interval = full_interval
        self._last: Checkpoint | None = None
        self._length = 0  # of the checkpoints since the last whole one, with it

    @property
    def tracks(self) -> bool:
        """Return whether tables must track their changes after the next checkpoint."""
        return self._full_interval > 1

    def parent(self) -> Checkpoint | None:
        """Return the checkpoint that the next one continues, None for a whole one. A whole one follows unless `note` is called."""
        last, self._last = self._last, None
        if last is None or self._length >= self._full_interval or not last.manifest.exists():
            self._length = 0
            return None
        return last

    def note(self, written: Checkpoint) -> None:
        """Note that the checkpoint after `parent` was written."""
        self._last, self._length = written, self._length + 1


def link_tables(parent: Checkpoint, checkpoint: Checkpoint, names: Iterable[str]) -> set[str]:
    """Link the table files of `parent` in `checkpoint`; return their paths within it.

    Raises:
        CheckpointError: a file cannot be linked.
    """
    linked = set()
    for name in names:
        for file in table_parts(parent.table(name)):
            target = checkpoint.tables / file.name
            try:
                os.link(file, target)
            except OSError as error:
                raise CheckpointError(f"{target}: cannot be linked to {file}: {error.strerror}") from None
            linked.add(str(target.relative_to(checkpoint.path)))
    return linked


def next_part(file: Path) -> Path:
    """Return the path of the next increment of the table saved at `file`.

    >>> next_part(Path("absent/user_id.table")).name
    'user_id.table.0001'
    """
    return file.with_name(f"{file.name}.{len(table_parts(file)):04d}")
