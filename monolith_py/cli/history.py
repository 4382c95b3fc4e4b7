"""Commands for data engineers: tables into a job, streams out of it, history joined again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from monolith_py.cli.job import ConfigOption, errors_to_exit, start_job
from monolith_py.cli.values import offset_ranges, time_ms

PANEL = "Data engineers"
history = typer.Typer()

TableOption = Annotated[Path | None, typer.Option(help="Parquet file.", exists=True, dir_okay=False)]
# Exit status of a replay without a request: not 0, as a wrong range is the usual cause; not 1, as a quiet hour is no error.
_NOTHING_FOUND = 3


# More than six parameters: they are the command's options.
@history.command(rich_help_panel=PANEL)
def load(
    config: ConfigOption,
    users: TableOption = None,
    items: TableOption = None,
    impressions: TableOption = None,
    actions: TableOption = None,
    columns: Annotated[Path | None, typer.Option(help="TOML file with the columns of the tables.", exists=True, dir_okay=False)] = None,
    prefix: Annotated[str | None, typer.Option(help="Prefix of the topics of the history; by default that of the job.")] = None,
    skip_bad_rows: Annotated[bool, typer.Option("--skip-bad-rows", help="Count rows that break a rule and leave them out.")] = False,
) -> None:
    """Load Parquet tables: features into the store, history into the log, every record once; a later run continues."""
    from monolith_py.config.load import LoadColumns, read_columns
    from monolith_streaming.load import LoadOptions, Tables
    from monolith_streaming.load.process import run_load

    with errors_to_exit():
        job = start_job(config)
        options = LoadOptions(read_columns(columns) if columns else LoadColumns(), prefix, skip_bad_rows)
        Console().print(run_load(job, Tables(users, items, impressions, actions), options))


@history.command(rich_help_panel=PANEL)
def archive(
    config: ConfigOption,
    folder: Annotated[Path, typer.Argument(help="Folder of the archive; a new one, or one of this job to be continued.", file_okay=False)],
    follow: Annotated[bool, typer.Option("--follow", help="Archive new records as they come, until SIGTERM.")] = False,
    interval: Annotated[float, typer.Option(help="Longest time from record to file with --follow, in seconds.", min=1.0)] = 60.0,
    compact: Annotated[
        bool, typer.Option("--compact", help="Make one file a partition of hours that ended two hours ago; with --follow every hour.")
    ] = False,
) -> None:
    """Copy impressions, actions and examples to Parquet files by event hour, every record once; a later run continues."""
    from monolith_streaming.archive.process import run_archiver

    job = start_job(config, "archiver" if follow else None)
    with errors_to_exit():
        run_archiver(job, folder, follow=follow, interval_s=interval, compacts=compact)


# More than six parameters: they are the command's options.
@history.command(rich_help_panel=PANEL)
def replay(
    config: ConfigOption,
    start: Annotated[str | None, typer.Option(help="First event time: ISO 8601, or milliseconds since the epoch.")] = None,
    end: Annotated[str | None, typer.Option(help="End of the range, exclusive, in the same form.")] = None,
    output: Annotated[str | None, typer.Option(help="Topic of the examples; by default a new one named after the range.")] = None,
    output_folder: Annotated[Path | None, typer.Option(help="Folder of the examples as Parquet files, in place of a topic.")] = None,
    archive: Annotated[Path | None, typer.Option(help="Read this archive in place of the topics.", exists=True, file_okay=False)] = None,
    prefix: Annotated[str | None, typer.Option(help="Prefix of the topics to read; by default that of the job.")] = None,
    offsets: Annotated[
        list[str] | None, typer.Option(help="Impressions PARTITION:START-STOP in place of a time range. May be repeated.")
    ] = None,
    beam: Annotated[
        list[str] | None, typer.Option(help="Option of Apache Beam, for instance --runner=FlinkRunner. May be repeated.")
    ] = None,
) -> None:
    """Join a range of history again, in a bounded Apache Beam pipeline. Exit status 3: the range has no impression."""
    if (start is None or end is None) == (offsets is None):
        raise typer.BadParameter("give --start and --end, or --offsets")
    from monolith_streaming.replay.beam import LOCAL_RUNNER, ReplayOptions, run_replay

    with errors_to_exit():
        job = start_job(config)
        options = ReplayOptions(archive, prefix, offset_ranges(offsets) if offsets else None, output_folder, beam or LOCAL_RUNNER)
        times_ms = {"start_ms": time_ms("start", start), "end_ms": time_ms("end", end)} if start and end else {}
        result = run_replay(job, **times_ms, output=output, options=options)
    Console().print(result)
    if not result.requests:
        raise typer.Exit(_NOTHING_FOUND)
