"""Rows of a job's tables, to Parquet files from a checkpoint, and from files into a trainer that starts."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

from monolith_py.clock import SystemClock
from monolith_py.config import JobConfig
from monolith_py.errors import CheckpointError, ConfigError
from monolith_py.table import EmbeddingTable, SliceForm, TableRows, read_rows, read_settings, warm_start, write_rows
from monolith_py.training import Checkpoint, Part, Trainer, open_checkpoints

_logger = logging.getLogger(__name__)

# Bytes of a table's snapshot that are in memory at once.
_SHARE_BYTES = 1 << 28
_MOST_SHARES = 256


def export_rows(job: JobConfig, feature: str, output: Path, name: str | None = None) -> tuple[int, str]:
    """Write the rows of a feature's table in the checkpoint `name`, by default the newest intact one, to a Parquet file.

    Return their number and the checkpoint's name. A part of the table is in memory at once.

    Raises:
        CheckpointError: there is no such checkpoint, it is damaged, or it has no such table.
        ArchiveError: the file cannot be written.
    """
    store = open_checkpoints(job, "rows", SystemClock())
    found = store.newest() if name is None else _named(store.by_name(), name)
    if found is None:
        raise CheckpointError(f"trainer.checkpoint_dir must hold an intact checkpoint, got none in {job.trainer.checkpoint_dir!r}")
    with store.reading(found) if found.path.parent == store.directory else nullcontext():  # no trainer deletes the others
        store.fetch(found, Part.TRAINING)
        path = found.table(feature)
        if not path.exists():
            names = [one.stem for one in found.table_files]
            raise CheckpointError(f"--feature must have a table in {found.path.name}, one of {names}, got {feature!r}")
        slices = read_settings(path).slices
        forms = [SliceForm(part.name, part.dim, part.optimizer) for part in slices]
        state_width = sum(sum(part.state_parts().values()) for part in slices)
        return write_rows(output, _rows_of(found.table_parts(feature)), forms, state_width), found.path.name


def import_rows(trainer: Trainer, files: Sequence[tuple[str, Path]], done: Mapping[str, str]) -> dict[str, str]:
    """Put the rows of each file, Parquet or safetensors, into the table of its feature; return `done` with the mark of each file.

    A file that `done` has for its feature is passed over, so that a restart does not undo what its rows have learnt since.

    Raises:
        ConfigError: a name is of no feature.
        ArchiveError: a Parquet file cannot be read.
        CheckpointError: a safetensors file cannot be read.
    """
    marks = dict(done)
    for feature, path in files:
        table = trainer.bags.table_of(feature)
        if table is None:
            names = [one.name for one in trainer.bags.features]
            raise ConfigError(f"--import-rows must name a feature, one of {names}, got {feature!r}")
        mark = _mark(path)
        if marks.get(feature) == mark:
            _logger.info("feature %s: rows of %s are in the checkpoint", feature, path)
            continue
        now_s = trainer.watermark_ms // 1000 or SystemClock().now_ms() // 1000
        try:
            num_rows = _import(table, path, now_s)
        except ValueError as error:
            raise ConfigError(f"--import-rows {feature}={path}: {error}") from None
        marks[feature] = mark
        _logger.warning("feature %s: %d rows of %s imported", feature, num_rows, path)
    return marks


def _import(table: EmbeddingTable, path: Path, now_s: int) -> int:
    if path.suffix == ".safetensors":
        return sum(warm_start({table.name: table}, path, now_s).values())
    num_rows = 0
    for chunk in read_rows(path, now_s=now_s):
        table.put(chunk, max(now_s, int(chunk.seen_s.max(initial=now_s))))
        num_rows += len(chunk)
    return num_rows


def _mark(path: Path) -> str:
    """Return size and time of a file: another file has another mark."""
    try:
        status = path.stat()
    except OSError as error:
        raise ConfigError(f"--import-rows must name a file, got {path}: {error.strerror}") from None
    return f"{path.name}:{status.st_size}:{status.st_mtime_ns}"


def _rows_of(parts: Sequence[Path]) -> Iterator[TableRows]:
    num_shares = min(_MOST_SHARES, 1 + sum(path.stat().st_size for path in parts) // _SHARE_BYTES)
    for part in range(num_shares):
        yield from EmbeddingTable.restore(*parts, share=(part, num_shares)).chunks()


def _named(checkpoints: Mapping[str, Checkpoint], name: str) -> Checkpoint:
    for known, one in checkpoints.items():
        if known == name or (name.isdecimal() and one.meta.step == int(name)):
            return one
    raise CheckpointError(f"--checkpoint must be one of {list(checkpoints)}, got {name!r}")
