"""The command `monolith`: processes of a job and tools. Each command imports its process lazily."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from monolith_py.config import JobConfig, load_job
from monolith_py.errors import MonolithError
from monolith_py.observe import serve_metrics, set_up_logging
from monolith_py.process import limit_openmp_spins

app = typer.Typer(help="Real-time recommendation training.", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

ConfigOption = Annotated[Path, typer.Option("--config", help="The job's TOML file.", exists=True, dir_okay=False)]
StopAtEndOption = Annotated[bool, typer.Option("--stop-at-end", help="Stop at the present end of the log.")]


@app.command("check-config")
def check_config(config: ConfigOption) -> None:
    """Check the job's settings and print them, defaults included, as JSON."""
    with _errors_to_exit():
        Console().print_json(load_job(config).model_dump_json())


@app.command()
def topics(config: ConfigOption) -> None:
    """Create the job's missing topics."""
    from monolith_py.io import open_log
    from monolith_py.io.log.topics import create_topics

    with _errors_to_exit():
        job = load_job(config)
        log = open_log(job.log.url)
        try:
            create_topics(log, job.log)
        finally:
            log.close()


@app.command()
def join(config: ConfigOption, stop_at_end: StopAtEndOption = False) -> None:
    """Run the joiner: join impressions and actions to examples."""
    from monolith_streaming.joiner.process import run_joiner

    job = _start(config, "joiner")
    with _errors_to_exit():
        run_joiner(job, stop_at_end=stop_at_end)


@app.command()
def train(config: ConfigOption, stop_at_end: StopAtEndOption = False) -> None:
    """Run the trainer: learn from examples and publish rows and dense parameters to the replicas."""
    limit_openmp_spins()
    from monolith_streaming.trainer.process import run_trainer

    job = _start(config, "trainer")
    with _errors_to_exit():
        run_trainer(job, stop_at_end=stop_at_end)


@app.command()
def serve(config: ConfigOption) -> None:
    """Run a ranking replica."""
    from monolith_serving.process import run_server

    job = _start(config, "serving")
    with _errors_to_exit():
        run_server(job)


@app.command()
def replay(
    config: ConfigOption,
    start: Annotated[str, typer.Option(help="First event time: ISO 8601, or milliseconds since the epoch.")],
    end: Annotated[str, typer.Option(help="End of the range, exclusive, in the same form.")],
    output: Annotated[str | None, typer.Option(help="Topic of the examples; by default a new one named after the range.")] = None,
) -> None:
    """Join a time range of the log again, in a bounded Apache Beam pipeline."""
    from monolith_streaming.replay.beam import run_replay

    with _errors_to_exit():
        job = _start(config)
        Console().print(run_replay(job, start_ms=_time_ms("start", start), end_ms=_time_ms("end", end), output=output))


# More than six parameters: they are the command's options.
@app.command()
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
    from monolith_streaming.backtest.options import Arm, BacktestOptions
    from monolith_streaming.backtest.process import backtest_job

    with _errors_to_exit():
        job = load_job(config)
        set_up_logging("WARNING")  # lines of INFO would break the progress bar
        options = BacktestOptions(
            start_ms=_time_ms("start", start),
            end_ms=None if end is None else _time_ms("end", end),
            order=order,
            batches=batches,
            arms=tuple(map(Arm.parse, arm)) if arm else BacktestOptions.arms,
            slice_s=slice_s,
        )
        remark = backtest_job(job, options, output)
    if remark:
        Console(stderr=True).print(remark, markup=False, soft_wrap=True)


# More than six parameters: they are the command's options.
@app.command()
def rank(
    user: Annotated[int, typer.Option(help="User id.", min=-(1 << 63), max=(1 << 63) - 1)],
    candidates: Annotated[str, typer.Option(help="Item ids, separated by commas.")],
    config: Annotated[Path | None, typer.Option(help="The job's TOML file, for its address.", exists=True, dir_okay=False)] = None,
    address: Annotated[str | None, typer.Option(help="Address of the replica, host:port.")] = None,
    context: Annotated[list[str] | None, typer.Option(help="A context feature, name=fid[,fid]. May be repeated.")] = None,
    log: Annotated[bool, typer.Option("--log", help="Log the impression: the request becomes training data.")] = False,
    wait: Annotated[float, typer.Option(help="Time to wait for a replica that is still starting, in seconds.", min=0.0)] = 0.0,
) -> None:
    """Rank candidates for a user on a replica; print them best first. The request is no training data."""
    from monolith_serving.client import RankClient

    with _errors_to_exit():
        if address is None:
            if config is None:
                raise typer.BadParameter("give --address or --config")
            serving = load_job(config).serving
            address = f"{serving.host}:{serving.port}"
        item_ids = _integers("candidates", candidates)
        pairs = (pair.partition("=") for pair in context or ())
        with RankClient(address) as client:
            features = {name: _integers(name, value) for name, _, value in pairs}
            result = client.rank_when_ready(user, item_ids, wait_s=wait, context=features, timeout_s=5.0, log_impression=log)
    table = Table("rank", "item", *result.task_names, title=f"model {result.model_version}, {result.staleness_ms} ms stale")
    by_score = sorted(zip(item_ids, result.scores.tolist(), strict=True), key=lambda row: -row[1][0])
    for place, (item_id, scores) in enumerate(by_score, start=1):
        table.add_row(str(place), str(item_id), *(f"{score:.4f}" for score in scores))
    Console().print(table)
    Console().print(f"request id: {result.request_id}", soft_wrap=True)


@app.command()
def inspect(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint (step-...), a folder of checkpoints, or one .table file.")],
    feature: Annotated[str | None, typer.Option(help="Show histograms of this feature's table: sightings and ages.")] = None,
    fid: Annotated[int | None, typer.Option("--id", help="Show the row of this fid.", min=-(1 << 63), max=(1 << 63) - 1)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Show a checkpoint: job, offsets and tables; optionally one table's histograms or one row."""
    from monolith_py.training.inspection import inspect_checkpoint
    from monolith_py.training.inspection.view import print_inspection

    if fid is not None and feature is None and not checkpoint.is_file():
        raise typer.BadParameter("give --feature with --id")
    with _errors_to_exit():
        inspection = inspect_checkpoint(checkpoint, feature, fid)
    if as_json:
        Console().print_json(json.dumps(inspection.document(), allow_nan=False))
    else:
        print_inspection(inspection)


def main() -> None:
    """Run the command line."""
    app()


def _start(config: Path, role: Literal["joiner", "trainer", "serving"] | None = None) -> JobConfig:
    """Load the job, set up logging and, for a process with a role, its metrics; return the job."""
    with _errors_to_exit():
        job = load_job(config)
        set_up_logging(job.observe.log_level)
        if role is not None:
            serve_metrics(getattr(job.observe, f"{role}_port"), role)
    return job


@contextmanager
def _errors_to_exit() -> Iterator[None]:
    """Turn a MonolithError into one line on standard error and exit status 1."""
    try:
        yield
    except MonolithError as error:
        Console(stderr=True, highlight=False).print(f"{type(error).__name__}: {error}", markup=False, soft_wrap=True)
        sys.exit(1)


def _integers(field: str, text: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        numbers = [1 << 64]
    if not all(-(1 << 63) <= number < 1 << 63 for number in numbers):
        raise typer.BadParameter(f"{field} must be integers of 64 bits separated by commas, got {text!r}")
    return numbers


def _time_ms(field: str, text: str) -> int:
    if text.isdecimal():
        return int(text)
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{field} must be ISO 8601 or milliseconds since the epoch, got {text!r}") from None
    return int((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1000)


if __name__ == "__main__":
    main()
