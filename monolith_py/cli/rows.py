"""Commands for rows of tables: forgotten, copied to files."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from monolith_py.cli.job import ConfigOption, errors_to_exit, load_job, start_job
from monolith_py.cli.values import time_ms
from monolith_py.errors import ConfigError

PANEL = "Rows"
rows = typer.Typer()


@rows.command(rich_help_panel=PANEL)
def forget(
    config: ConfigOption,
    feature: Annotated[str, typer.Option(help="Feature whose rows go.")],
    fid: Annotated[list[int] | None, typer.Option(help="Id, a 64-bit integer. May be repeated.")] = None,
    value: Annotated[list[str] | None, typer.Option(help="Id that is a text. May be repeated.")] = None,
    fids_from: Annotated[
        Path | None, typer.Option(help="File with an id, a 64-bit integer, in each line.", exists=True, dir_okay=False)
    ] = None,
    until: Annotated[str | None, typer.Option(help="Learn nothing from impressions up to this event time; by default now.")] = None,
) -> None:
    """Remove the rows of some ids from trainer and replicas, and never learn them again from impressions before."""
    from monolith_py.clock import SystemClock
    from monolith_py.data.ids import fid_from_text
    from monolith_py.io import open_log
    from monolith_py.io.log.forget_requests import append_forget_requests
    from monolith_py.io.log.topics import Topics

    with errors_to_exit():
        job = load_job(config)
        names = [one.name for one in job.features]
        if feature not in names:
            raise ConfigError(f"--feature must be one of {names}, got {feature!r}")
        lines = _text(fids_from).split() if fids_from else []
        if broken_values := [one for one in value or () if not _is_utf8(one)]:
            raise ConfigError(f"--value must be UTF-8, got {broken_values[0]!r}")
        fids = sorted({*(fid or ()), *map(fid_from_text, value or ()), *(_fid(line) for line in lines)})
        if not fids:
            raise ConfigError("--fid, --value or --fids-from must name an id, got none")
        if broken := [one for one in fids if not -(1 << 63) <= one < 1 << 63]:
            raise ConfigError(f"--fid must be a 64-bit integer, got {broken[0]}")
        until_ms = SystemClock().now_ms() if until is None else time_ms("until", until)
        with closing(open_log(job.log)) as log:
            topic = Topics.of(job.log).forget_requests
            offset = append_forget_requests(log, topic, feature, fids, until_ms)
    Console().print(f"{len(fids)} ids of {feature} will be forgotten: {topic} up to offset {offset}", highlight=False)


@rows.command("export-rows", rich_help_panel=PANEL)
def export_rows(
    config: ConfigOption,
    feature: Annotated[str, typer.Option(help="Feature whose table is copied.")],
    output: Annotated[Path, typer.Option(help="Parquet file, replaced once the new one is whole.", dir_okay=False)],
    checkpoint: Annotated[
        str | None, typer.Option(help="Checkpoint by its name in `monolith versions`, or by its number of batches; by default the newest.")
    ] = None,
) -> None:
    """Copy a table of a checkpoint to a Parquet file: fids, weights, optimizer state, sightings. The trainer may run."""
    from monolith_streaming.trainer.rows import export_rows

    job = start_job(config)
    with errors_to_exit():
        num_rows, name = export_rows(job, feature, output, checkpoint)
    Console().print(f"{num_rows} rows of {feature} from {name}: {output}", highlight=False)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--fids-from must name a file of text, got {path}: {error}") from None


def _is_utf8(text: str) -> bool:
    return not any("\ud800" <= one <= "\udfff" for one in text)


def _fid(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"--fids-from must have a 64-bit integer in each line, got {text!r}") from None
