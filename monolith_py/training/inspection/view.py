"""View of an inspection in a terminal."""

from __future__ import annotations

from rich.bar import Bar as Stripe
from rich.console import Console
from rich.table import Table

from monolith_py.table import TableSettings
from monolith_py.training.checkpoint import CheckpointMeta
from monolith_py.training.inspection import Bin, FidReport, Inspection, TableReport, iso
from monolith_py.training.quality import Quality

_MIN_WIDTH = 140  # a narrower terminal folds the lines instead of squeezing the numbers
_UNITS_S = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def print_inspection(inspection: Inspection) -> None:
    """Print `inspection` on standard output."""
    console = Console(markup=False, highlight=False)
    console.width = max(console.width, _MIN_WIDTH)
    facts = Table.grid(padding=(0, 2))
    for name, text in _facts(inspection):
        facts.add_row(name, text)
    console.print(facts)
    if inspection.meta and inspection.meta.quality:
        console.print(_quality(inspection.meta.quality))
    console.print(_tables(inspection.tables))
    name = inspection.tables[0].name if inspection.tables else ""
    if inspection.histograms:
        sightings = [(_sightings_of(one), one) for one in inspection.histograms.sightings]
        ages = [(_age_of(one), one) for one in inspection.histograms.ages_s]
        console.print(f"{name}: entries by sightings", soft_wrap=True)
        console.print(_histogram("sightings", sightings))
        kept = _times_kept(inspection.tables[0].settings)
        console.print(f"{name}: entries by event time before the {_end_of(inspection)} ({kept})", soft_wrap=True)
        console.print(_histogram("last seen", ages))
    if inspection.fid:
        _print_fid(console, inspection, inspection.fid)


def _facts(inspection: Inspection) -> list[tuple[str, str]]:
    facts = [("checkpoint" if inspection.meta else "table", str(inspection.path))]
    facts += [("refused", reason) for reason in inspection.refused]
    if inspection.meta is None:
        return [*facts, ("newest seen", _date(inspection.now_s))]
    meta: CheckpointMeta = inspection.meta
    offsets = (f"{partition}: {offset:,} + {row} rows" for partition, (offset, row) in sorted(meta.offsets.items()))
    return [
        *facts,
        ("job", meta.job),
        ("step", f"{meta.step:,} batches, {meta.examples_trained:,} examples"),
        ("watermark", f"{_date(meta.watermark_ms // 1000)}, event time"),
        ("saved", f"{_date(meta.saved_ms // 1000)} by generation {meta.generation}"),
        ("examples", f"next by partition: {', '.join(offsets) or 'none'}"),
        *_source(meta),
        ("updates", f"next offset {meta.updates_offset:,}, seq {meta.next_seq:,}"),
    ]


def _source(meta: CheckpointMeta) -> list[tuple[str, str]]:
    if meta.source is None:
        return []
    return [("source", f"{meta.source.name}, {'live' if meta.source.is_done else 'backfill'}")]


def _quality(figures: tuple[Quality, ...]) -> Table:
    table = Table("task", "predictions", title="quality of the last predictions", title_justify="left")
    for column in ("number", "AUC", "NE", "calibration", "label rate"):
        table.add_column(column, justify="right", no_wrap=True)
    for one in figures:
        numbers = (f"{one.auc:.4f}", f"{one.ne:.4f}", f"{one.calibration:.3f}", f"{one.label_rate:.4f}")
        table.add_row(one.task, str(one.source), f"{one.num_predictions:,}", *(number.replace("nan", "-") for number in numbers))
    return table


def _tables(reports: tuple[TableReport, ...]) -> Table:
    table = Table("feature")
    for column in ("rows", "candidates", "admitted", "filtered", "evicted", "freed", "bytes", "map load"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("settings")
    for report in reports:
        stats = report.stats
        counts = (stats.rows, stats.candidates, stats.admitted, stats.filtered, stats.evicted, stats.freed)
        numbers = (*(f"{count:,}" for count in counts), _bytes(stats.bytes), f"{report.id_map_load:.1%}")
        table.add_row(report.name, *numbers, _settings(report.settings))
    return table


def _settings(settings: TableSettings) -> str:
    slices = [f"{part.dim} {part.optimizer} lr {part.hyperparameters['lr']:g}" for part in settings.slices]
    if len(slices) > 1:
        slices = [f"{part.name} {text}" for part, text in zip(settings.slices, slices, strict=True)]
    texts = [f"dim {' + '.join(slices)}", f"admit after {settings.admit_after} ({settings.admission.kind})"]
    if settings.ttl_s is not None:
        texts.append(f"ttl {_duration(settings.ttl_s)}")
    if settings.budget is not None:
        texts.append(f"budget {_bytes(settings.budget.bytes)} {settings.budget.eviction}")
    return ", ".join(texts)


def _histogram(column: str, bins: list[tuple[str, Bin]]) -> Table:
    table = Table()
    for name in (column, "rows", "candidates"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    most = max((one.rows + one.candidates for _, one in bins), default=0)
    for label, one in bins:
        table.add_row(label, f"{one.rows:,}", f"{one.candidates:,}", Stripe(most, 0, one.rows + one.candidates, width=40))
    return table


def _end_of(inspection: Inspection) -> str:
    return "watermark" if inspection.meta else "newest sighting"


def _print_fid(console: Console, inspection: Inspection, found: FidReport) -> None:
    (report,) = inspection.tables
    title = f"{report.name}, fid {found.fid}"
    if found.sightings is None or found.seen_s is None:
        waiting = "" if report.settings.admission.kind == "count" else ", or a candidate: only admission 'count' lists candidates"
        console.print(f"{title}: absent{waiting}", soft_wrap=True)
        return
    more = " or more" if found.sightings == 0xFFFF else ""
    age = _age(max((inspection.now_s or 0) - found.seen_s, 0))
    ago = f"{age} before the {_end_of(inspection)} ({_times_kept(report.settings)})"
    seen = f"{found.sightings:,}{more} sightings, last seen {_date(found.seen_s)}, {ago}"
    if found.found == "candidate":
        console.print(f"{title}: a candidate for a row, admitted after {report.settings.admit_after}; {seen}", soft_wrap=True)
        return
    console.print(f"{title}: a row; {seen}", soft_wrap=True)
    table = Table("slice", "", "values")
    for part in found.slices:
        for name, values in {"weights": part.weights, **part.state}.items():
            table.add_row(part.name, name, " ".join(f"{value:.6g}" for value in values))
    console.print(table)


def _times_kept(settings: TableSettings) -> str:
    return f"kept in steps of {_duration(settings.seen_step_s)} for {_age(settings.seen_span_s)}"


def _sightings_of(one: Bin) -> str:
    if one.last is None:
        return f"{one.first:,} or more"
    return f"{one.first:,}" if one.first == one.last else f"{one.first:,} - {one.last:,}"


def _age_of(one: Bin) -> str:
    if one.last is None:
        return f"{_duration(one.first)} or more"
    return f"{_duration(one.first)} - {_duration(one.last + 1)}" if one.first else f"under {_duration(one.last + 1)}"


def _date(time_s: int | None) -> str:
    text = iso(time_s)
    return f"{text[:19].replace('T', ' ')} UTC" if text else "never" if time_s is None else f"{time_s} s"


def _duration(time_s: int) -> str:
    """Return a duration in the largest unit that divides it."""
    size, unit = next((size, unit) for size, unit in _UNITS_S if time_s % size == 0)
    return f"{time_s // size:,} {unit}"


def _age(time_s: int) -> str:
    """Return a duration in the largest unit of which it has one."""
    size, unit = next(((size, unit) for size, unit in _UNITS_S if time_s >= size), _UNITS_S[-1])
    return f"{time_s / size:,.1f} {unit}" if size > 1 else f"{time_s} s"


def _bytes(number: float) -> str:
    units = ["TiB", "GiB", "MiB", "KiB"]
    unit = "B"
    while number >= 1024 and units:
        number, unit = number / 1024, units.pop()
    return f"{number:,.0f} B" if unit == "B" else f"{number:,.1f} {unit}"
