"""Inspection of a checkpoint: its meta, settings and counts of its tables, histograms of sightings and ages, single rows.

Tables are restored one after the other, so an inspection takes the memory of the largest. Ages are event time before the checkpoint's
watermark, or before the newest sighting of a single table file. Times of sightings have a resolution and a span (`TableSettings`): a fid
may have been seen up to a step later than shown, and one that looks as old as the span at any earlier time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from monolith_py.errors import CheckpointError
from monolith_py.table import NO_ROW, EmbeddingTable, Entries, TableSettings, TableStats, read_settings, table_parts
from monolith_py.training.checkpoint import Checkpoint, CheckpointMeta

_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 86_400
# First age of each bin.
_AGES_S = (
    *(0, _MINUTE_S, 5 * _MINUTE_S, 15 * _MINUTE_S),
    *(_HOUR_S, 4 * _HOUR_S, 12 * _HOUR_S),
    *(_DAY_S, 3 * _DAY_S, 7 * _DAY_S, 30 * _DAY_S, 90 * _DAY_S),
)
_MAX_COUNT = 0xFFFF  # counts saturate here


@dataclass(frozen=True)
class TableReport:
    """Counts and settings of one table."""

    name: str
    stats: TableStats
    settings: TableSettings

    @property
    def id_map_load(self) -> float:
        """Return the share of used entries of the id map."""
        return (self.stats.rows + self.stats.candidates) / self.stats.id_map_capacity


@dataclass(frozen=True)
class Bin:
    """Number of entries of a table from `first` to `last` inclusive; without `last`, from `first` on."""

    first: int
    last: int | None
    rows: int
    candidates: int


@dataclass(frozen=True)
class Histograms:
    """Histograms of all entries of a table: sightings in powers of two, ages in seconds; up to the last bin with an entry."""

    sightings: tuple[Bin, ...]
    ages_s: tuple[Bin, ...]


@dataclass(frozen=True)
class SliceValues:
    """One slice of one row: its weights, and each part of its optimizer state."""

    name: str
    weights: list[float]
    state: dict[str, list[float]]


@dataclass(frozen=True)
class FidReport:
    """Entry of a fid in a table; sightings saturate at 65,535, and are None for an absent fid."""

    fid: int
    found: Literal["row", "candidate", "absent"]
    sightings: int | None = None
    seen_s: int | None = None
    slices: tuple[SliceValues, ...] = ()


@dataclass(frozen=True)
class Inspection:
    """Result of an inspection of a checkpoint or of one table file."""

    path: Path
    meta: CheckpointMeta | None  # None for a table file
    refused: tuple[str, ...]  # errors of newer, damaged checkpoints
    now_s: int | None  # event time from which ages are counted; None for a table file without an entry
    tables: tuple[TableReport, ...]
    histograms: Histograms | None = None  # of the only table
    fid: FidReport | None = None  # of the only table

    def document(self) -> dict[str, Any]:
        """Return the inspection as a JSON document: times as numbers and as ISO 8601, null for a number that is not finite."""
        document: dict[str, Any] = {
            "path": str(self.path),
            "checkpoint": _meta_document(self.meta) if self.meta else None,
            "refused": list(self.refused),
            "now_s": self.now_s,
            "tables": [_table_document(table) for table in self.tables],
        }
        if self.histograms:
            document["histograms"] = asdict(self.histograms)
        if self.fid:
            document["fid"] = {**asdict(self.fid), "seen": iso(self.fid.seen_s)}
        cleaned: dict[str, Any] = _finite(document)
        return cleaned


def inspect_checkpoint(path: Path, feature: str | None = None, fid: int | None = None) -> Inspection:
    """Return the inspection of a checkpoint, of the newest intact checkpoint in a folder, or of one table file.

    `feature` limits it to one table and adds histograms; `fid` adds the entry of the fid instead. A table file needs no `feature`.

    Raises:
        CheckpointError: the path is absent, the checkpoint is damaged, or it has no table of that feature; the message names the file.
        ValueError: `fid` is given without `feature` for a checkpoint.
    """
    path, refused, files = _files_at(path)
    meta = Checkpoint(path).meta if path.is_dir() else None
    if meta and feature is None and fid is None:
        reports = tuple(_report(file, EmbeddingTable.restore(*table_parts(file))) for file in files)
        return Inspection(path, meta, refused, meta.watermark_ms // 1000, reports)
    if meta and feature is None:
        raise ValueError(f"fid {fid} must come with a feature, got none")
    file = next((file for file in files if feature in (None, file.stem)), None)
    if file is None:
        raise CheckpointError(f"{path}: must have a table of feature {feature!r}, got {', '.join(file.stem for file in files)}")
    table = EmbeddingTable.restore(*table_parts(file))
    entries = table.entries()
    newest_s = int(entries.seen_s.max()) if entries.seen_s.size else None
    now_s = meta.watermark_ms // 1000 if meta else newest_s
    inspection = Inspection(path, meta, refused, now_s, (_report(file, table),))
    if fid is not None:
        return replace(inspection, fid=_find(table, entries, fid, inspection.tables[0].settings))
    if feature is None:
        return inspection
    return replace(inspection, histograms=Histograms(_by_sightings(entries), _by_age(entries, now_s or 0)))


def iso(time_s: float | None) -> str | None:
    """Return a time as ISO 8601 in UTC, None for None and for a time outside the calendar."""
    if time_s is None:
        return None
    try:
        return datetime.fromtimestamp(time_s, UTC).isoformat()
    except (OverflowError, ValueError, OSError):
        return None


def _files_at(path: Path) -> tuple[Path, tuple[str, ...], list[Path]]:
    """Return `path` or the newest intact checkpoint in it, the errors of newer ones, and the table files."""
    if not path.exists():
        raise CheckpointError(f"{path}: does not exist")
    if not path.is_dir():
        return path, (), [path]
    refused: list[CheckpointError] = []
    checkpoint: Checkpoint | None = Checkpoint(path)
    if Checkpoint.is_at(path):
        Checkpoint(path).verify()
    else:
        checkpoint, refused = Checkpoint.newest_intact(path)
    if checkpoint is None:
        raise refused[0] if refused else CheckpointError(f"{path}: has no checkpoint")
    return checkpoint.path, tuple(str(error) for error in refused), checkpoint.table_files


def _report(file: Path, table: EmbeddingTable) -> TableReport:
    return TableReport(file.stem, table.stats(), read_settings(file))


def _histogram(places: npt.NDArray[np.int64], firsts: Sequence[int], entries: Entries) -> tuple[Bin, ...]:
    """Return the bins that start at `firsts`, up to the last with an entry; `places` are the bins of the entries."""
    is_row = entries.rows != NO_ROW
    rows, candidates = (np.bincount(places[chosen], minlength=len(firsts)) for chosen in (is_row, ~is_row))
    end = int(places.max()) + 1 if places.size else 0
    lasts = [*(first - 1 for first in firsts[1:]), None]
    return tuple(Bin(firsts[k], lasts[k], int(rows[k]), int(candidates[k])) for k in range(end))


def _by_sightings(entries: Entries) -> tuple[Bin, ...]:
    firsts = [1 << power for power in range(_MAX_COUNT.bit_length())]
    return _histogram(np.searchsorted(firsts, entries.counts, side="right") - 1, firsts, entries)


def _by_age(entries: Entries, now_s: int) -> tuple[Bin, ...]:
    ages_s = np.maximum(now_s - entries.seen_s, 0)
    return _histogram(np.searchsorted(_AGES_S, ages_s, side="right") - 1, _AGES_S, entries)


def _find(table: EmbeddingTable, entries: Entries, fid: int, settings: TableSettings) -> FidReport:
    places = np.flatnonzero(entries.fids == fid)
    if not places.size:
        return FidReport(fid, "absent")
    (at,) = places
    sightings, seen_s = int(entries.counts[at]), int(entries.seen_s[at])
    if entries.rows[at] == NO_ROW:
        return FidReport(fid, "candidate", sightings, seen_s)
    weights, state = table.gather(entries.rows[at : at + 1])[0].tolist(), table.state(entries.rows[at : at + 1])[0].tolist()
    slices = []
    for part in settings.slices:
        own, weights = weights[: part.dim], weights[part.dim :]
        own_state = {}
        for name, width in part.state_parts().items():
            own_state[name], state = state[:width], state[width:]
        slices.append(SliceValues(part.name, own, own_state))
    return FidReport(fid, "row", sightings, seen_s, tuple(slices))


def _meta_document(meta: CheckpointMeta) -> dict[str, Any]:
    offsets = [{"partition": partition, "offset": offset, "row": row} for partition, (offset, row) in sorted(meta.offsets.items())]
    return {**meta.document(), "offsets": offsets, "watermark": iso(meta.watermark_ms / 1000), "saved": iso(meta.saved_ms / 1000)}


def _table_document(table: TableReport) -> dict[str, Any]:
    settings = {"dim": table.settings.dim, **asdict(table.settings), **_times_kept(table.settings)}
    return {"name": table.name, **asdict(table.stats), "id_map_load": table.id_map_load, "settings": settings}


def _times_kept(settings: TableSettings) -> dict[str, int]:
    return {"seen_step_s": settings.seen_step_s, "seen_span_s": settings.seen_span_s}


def _finite(value: Any) -> Any:
    """Return `value` with None in place of each float that is not finite."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
