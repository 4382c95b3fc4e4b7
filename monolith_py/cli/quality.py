"""Commands for ML engineers: figures of a model, and a look into its checkpoints."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from monolith_py.cli.job import ConfigOption, errors_to_exit, load_job, start_job
from monolith_py.cli.values import time_ms
from monolith_py.process import limit_openmp_spins

PANEL = "ML engineers"
quality = typer.Typer()


# More than six parameters: they are the command's options.
@quality.command(rich_help_panel=PANEL)
def backtest(
    config: ConfigOption,
    start: Annotated[str, typer.Option(help="First request that is scored: ISO 8601, or milliseconds since the epoch.")],
    output: Annotated[Path, typer.Option(help="Folder of figures.json, scores.parquet, auc.png and calibration.png.", file_okay=False)],
    end: Annotated[str | None, typer.Option(help="End of the scored requests, exclusive, in the same form.")] = None,
    order: Annotated[
        Literal["service", "time"], typer.Option(help="Learn an example when its label is known, or at the time of its impression.")
    ] = "service",
    batches: Annotated[
        Literal["as_joined", "even"], typer.Option(help="Learn examples as soon as a slice ends, or in full batches only.")
    ] = "as_joined",
    arm: Annotated[list[str] | None, typer.Option(help="live, hourly, daily, frozen or NAME=SECONDS. May be repeated.")] = None,
    slice_s: Annotated[float, typer.Option("--slice-s", help="Event time between two steps of scoring and learning, in seconds.")] = 1.0,
) -> None:
    """Train the job on its log again and score each request before its labels are known; changes nothing of the job."""
    limit_openmp_spins()
    from monolith_py.observe import set_up_logging
    from monolith_streaming.backtest.options import Arm, BacktestOptions
    from monolith_streaming.backtest.process import backtest_job

    with errors_to_exit():
        job = load_job(config)
        set_up_logging("WARNING")  # lines of INFO would break the progress bar
        options = BacktestOptions(
            start_ms=time_ms("start", start),
            end_ms=None if end is None else time_ms("end", end),
            order=order,
            batches=batches,
            arms=tuple(map(Arm.parse, arm)) if arm else BacktestOptions.arms,
            slice_s=slice_s,
        )
        remark = backtest_job(job, options, output)
    if remark:
        Console(stderr=True).print(remark, markup=False, soft_wrap=True)


@quality.command(rich_help_panel=PANEL)
def compare(
    config: ConfigOption,
    shadow_jobs: Annotated[
        list[Path] | None,
        typer.Option(
            "--shadow", help="TOML file of a job whose `monolith shadow` scored the requests. May be repeated.", exists=True, dir_okay=False
        ),
    ] = None,
    start: Annotated[str | None, typer.Option(help="First request: ISO 8601, or milliseconds since the epoch.")] = None,
    end: Annotated[
        str | None, typer.Option(help="End of the requests, exclusive; by default the last one whose window has closed.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder of compare.json and compare.html.", file_okay=False)] = None,
) -> None:
    """Compare the arms that scored the requests of a log: AUC, NE and calibration with intervals."""
    from monolith_streaming.compare.process import compare_job

    job = start_job(config)
    with errors_to_exit():
        shadows = [load_job(path) for path in shadow_jobs or ()]
        times_ms = 0 if start is None else time_ms("start", start), None if end is None else time_ms("end", end)
        compare_job(job, shadows, output, *times_ms)


@quality.command(rich_help_panel=PANEL)
def inspect(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint (step-...), a folder of checkpoints, or one .table file.")],
    feature: Annotated[str | None, typer.Option(help="Show histograms of this feature's table: sightings and ages.")] = None,
    fid: Annotated[int | None, typer.Option("--id", help="Show the row of this fid.", min=-(1 << 63), max=(1 << 63) - 1)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    config: Annotated[Path | None, typer.Option(help="Job whose checkpoint of that name to show, also from an object store.")] = None,
) -> None:
    """Show a checkpoint: job, offsets and tables; optionally one table's histograms or one row."""
    from monolith_py.clock import SystemClock
    from monolith_py.training import fetched_checkpoint
    from monolith_py.training.inspection import inspect_checkpoint
    from monolith_py.training.inspection.view import print_inspection

    if fid is not None and feature is None and not checkpoint.is_file():
        raise typer.BadParameter("give --feature with --id")
    with errors_to_exit(), ExitStack() as stack:
        if config is not None:
            checkpoint = stack.enter_context(fetched_checkpoint(load_job(config), str(checkpoint), SystemClock()))
        inspection = inspect_checkpoint(checkpoint, feature, fid)
    if as_json:
        Console().print_json(json.dumps(inspection.document(), allow_nan=False))
    else:
        print_inspection(inspection)
