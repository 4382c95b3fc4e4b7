"""Commands that run a process of a job until it is stopped."""

from __future__ import annotations

from typing import Annotated

import typer

from monolith_py.cli.job import ConfigOption, errors_to_exit, start_job
from monolith_py.cli.values import feature_file, time_ms, time_or_offsets
from monolith_py.errors import ConfigError
from monolith_py.process import limit_openmp_spins

PANEL = "Processes of a job"
processes = typer.Typer()

StopAtEndOption = Annotated[bool, typer.Option("--stop-at-end", help="Stop at the present end of the log.")]


@processes.command(rich_help_panel=PANEL)
def join(
    config: ConfigOption,
    stop_at_end: StopAtEndOption = False,
    force: Annotated[bool, typer.Option("--force", help="Start although the state in the store does not follow log or clock.")] = False,
) -> None:
    """Run the joiner: join impressions and actions to examples."""
    from monolith_streaming.joiner.process import run_joiner

    job = start_job(config, "joiner")
    with errors_to_exit():
        if job.log.model_prefix:
            raise ConfigError(f"log.model_prefix must be empty for the joiner: all models share its examples, got {job.log.model_prefix!r}")
        run_joiner(job, stop_at_end=stop_at_end, force=force)


# More than six parameters: they are the command's options.
@processes.command(rich_help_panel=PANEL)
def train(
    config: ConfigOption,
    stop_at_end: StopAtEndOption = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start a new model although the log holds updates of an older one.")] = False,
    reset_table: Annotated[
        list[str] | None, typer.Option("--reset-table", help="Start this feature's table anew in place of restoring it. May be repeated.")
    ] = None,
    import_rows: Annotated[
        list[str] | None,
        typer.Option(help="FEATURE=FILE: put the rows of a Parquet or safetensors file into this feature's table, once. May be repeated."),
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="Topic that a new model learns before the job's examples, for instance of a replay.")
    ] = None,
    start: Annotated[
        str | None, typer.Option("--from", help="Start of a new model: event time as for replay, or offsets PARTITION:OFFSET[,...].")
    ] = None,
    live_from: Annotated[str | None, typer.Option(help="Event time after --source; by default the end of the replay in it.")] = None,
    accept_hole: Annotated[bool, typer.Option("--accept-hole", help="Go on where examples of the joiner are missing in the log.")] = False,
) -> None:
    """Run the trainer: learn from examples and publish rows and dense parameters to the replicas."""
    limit_openmp_spins()
    from monolith_streaming.trainer.handover import SourceOptions
    from monolith_streaming.trainer.process import run_trainer
    from monolith_streaming.trainer.start import StartOptions

    first = None
    if source is not None or start is not None or live_from is not None:
        live_from_ms = None if live_from is None else time_ms("live-from", live_from)
        first = SourceOptions(source, None if start is None else time_or_offsets("from", start), live_from_ms)
    job = start_job(config, "trainer")
    with errors_to_exit():
        files = tuple(feature_file("import-rows", text) for text in import_rows or ())
        options = StartOptions(fresh, tuple(reset_table or ()), accept_hole, files, first)
        run_trainer(job, stop_at_end=stop_at_end, options=options)


@processes.command(rich_help_panel=PANEL)
def serve(config: ConfigOption) -> None:
    """Run a ranking replica."""
    from monolith_serving.process import run_server

    job = start_job(config, "serving")
    with errors_to_exit():
        run_server(job)


@processes.command(rich_help_panel=PANEL)
def shadow(config: ConfigOption) -> None:
    """Score the requests that replicas have answered with the model of this job, for `monolith compare`; answer nobody."""
    from monolith_serving.shadow.process import run_shadow

    job = start_job(config, "shadow")
    with errors_to_exit():
        run_shadow(job)


@processes.command(rich_help_panel=PANEL)
def guard(
    config: ConfigOption,
    accept: Annotated[
        int | None,
        typer.Option("--accept", help="End the hold of the updates from this offset on, as the guard's log names it: take them for good."),
    ] = None,
) -> None:
    """Judge each publication on recent examples; replicas with serving.guarded follow only those that are good."""
    from monolith_serving.guard.process import run_guard

    job = start_job(config, "guard")
    with errors_to_exit():
        run_guard(job, accept=accept)
