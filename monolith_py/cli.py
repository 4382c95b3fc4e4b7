"""The command `monolith`: processes of a job and tools. Each command imports its process lazily.

Longer than 300 lines: a third of it are the options of eleven commands and their texts.
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, astuple
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from monolith_py.config import JobConfig, load_job
from monolith_py.config.explain import mask_url
from monolith_py.errors import LogError, MonolithError
from monolith_py.observe import serve_metrics, set_up_logging
from monolith_py.process import limit_openmp_spins

app = typer.Typer(help="Real-time recommendation training.", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

# Exit status of a replay without a request: not 0, as a wrong range is the usual cause; not 1, as a quiet hour is no error.
_NOTHING_FOUND = 3
# Digits of dates such as 20220501, and of the times of today in seconds: as milliseconds both are in 1970.
_NO_MS_DIGITS = range(8, 12)


def _print_version(wanted: bool) -> None:
    if wanted:
        Console().print(f"monolith {version('monolith-py')}", highlight=False)
        raise typer.Exit


@app.callback()
def _options(
    version_wanted: Annotated[bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)] = False,
) -> None:
    """Real-time recommendation training."""


ConfigOption = Annotated[Path, typer.Option("--config", help="The job's TOML file.", exists=True, dir_okay=False)]
StopAtEndOption = Annotated[bool, typer.Option("--stop-at-end", help="Stop at the present end of the log.")]


@app.command("check-config")
def check_config(config: ConfigOption) -> None:
    """Check the job's settings and print them, defaults included, as JSON."""
    with _errors_to_exit():
        job = load_job(config).model_dump(mode="json")
        for store in ("log", "kv"):
            job[store]["url"] = mask_url(job[store]["url"])
        Console().print_json(data=job)


@app.command()
def settings() -> None:
    """Print all settings of a job as commented TOML: meaning, range and default of each."""
    from monolith_py.config.reference import settings_reference

    sys.stdout.write(settings_reference(JobConfig))


@app.command()
def topics(config: ConfigOption) -> None:
    """Create the job's missing topics, and print all with their partitions."""
    from monolith_py.io import open_log
    from monolith_py.io.log.topics import Topics, create_topics

    with _errors_to_exit():
        job = load_job(config)
        log = open_log(job.log.url)
        try:
            create_topics(log, job.log)
            for topic in astuple(Topics.of(job.log)):
                typer.echo(f"{topic} {log.num_partitions(topic)}")
        finally:
            log.close()


@app.command()
def join(
    config: ConfigOption,
    stop_at_end: StopAtEndOption = False,
    force: Annotated[bool, typer.Option("--force", help="Start although the state in the store does not follow log or clock.")] = False,
) -> None:
    """Run the joiner: join impressions and actions to examples."""
    from monolith_streaming.joiner.process import run_joiner

    job = _start(config, "joiner")
    with _errors_to_exit():
        run_joiner(job, stop_at_end=stop_at_end, force=force)


@app.command()
def train(
    config: ConfigOption,
    stop_at_end: StopAtEndOption = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start a new model although the log holds updates of an older one.")] = False,
    reset_table: Annotated[
        list[str] | None, typer.Option("--reset-table", help="Start this feature's table anew in place of restoring it. May be repeated.")
    ] = None,
    accept_hole: Annotated[bool, typer.Option("--accept-hole", help="Go on where examples of the joiner are missing in the log.")] = False,
) -> None:
    """Run the trainer: learn from examples and publish rows and dense parameters to the replicas."""
    limit_openmp_spins()
    from monolith_streaming.trainer.process import run_trainer
    from monolith_streaming.trainer.start import StartOptions

    job = _start(config, "trainer")
    with _errors_to_exit():
        run_trainer(job, stop_at_end=stop_at_end, options=StartOptions(fresh, tuple(reset_table or ()), accept_hole))


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
    """Join a time range of the log again, in a bounded Apache Beam pipeline. Exit status 3: the range has no impression."""
    from monolith_streaming.replay.beam import run_replay

    with _errors_to_exit():
        job = _start(config)
        result = run_replay(job, start_ms=_time_ms("start", start), end_ms=_time_ms("end", end), output=output)
    Console().print(result)
    if not result.requests:
        raise typer.Exit(_NOTHING_FOUND)


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


@app.command("dead-letters")
def dead_letters(
    config: ConfigOption,
    last: Annotated[int, typer.Option(help="Number of the newest letters to list.", min=1)] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document a line, with the values in base64.")] = False,
    value_of: Annotated[
        int | None, typer.Option("--value-of", help="Write the value of the letter at this offset to standard output.", min=0)
    ] = None,
) -> None:
    """List the records that could not be used: topic, partition, offset, time and reason."""
    from monolith_py.io import open_log
    from monolith_py.io.log.dead_letters import read_dead_letters
    from monolith_py.io.log.topics import Topics

    with _errors_to_exit():
        job = load_job(config)
        topic = Topics.of(job.log).dead_letters
        with closing(open_log(job.log.url)) as log:
            if value_of is not None:
                last = max(1, log.end_offset(topic) - value_of)
            letters = list(read_dead_letters(log, topic, last))
        if value_of is not None:
            found = next((letter for offset, letter in letters if offset == value_of), None)
            if found is None:
                raise LogError(f"{topic!r} has no dead letter at offset {value_of}")
            sys.stdout.buffer.write(found.value)
            return
    if as_json:
        for offset, letter in letters:
            typer.echo(json.dumps({"letter": offset, **asdict(letter), "value": base64.b64encode(letter.value).decode()}))
        return
    table = Table("letter", "topic", "partition", "offset", "put aside (UTC)", "bytes", "reason")
    for offset, letter in letters:
        time = datetime.fromtimestamp(letter.time_ms / 1000, UTC).isoformat(" ", "seconds")[:19]
        size = letter.value_bytes or len(letter.value)
        table.add_row(str(offset), letter.topic, str(letter.partition), str(letter.offset), time, str(size), escape(letter.reason))
    Console().print(table)


# More than six parameters: they are the command's options.
@app.command()
def rank(
    user: Annotated[int, typer.Option(help="User id.", min=-(1 << 63), max=(1 << 63) - 1)],
    candidates: Annotated[str, typer.Option(help="Item ids, separated by commas.")],
    config: Annotated[Path | None, typer.Option(help="The job's TOML file, for its address.", exists=True, dir_okay=False)] = None,
    address: Annotated[str | None, typer.Option(help="Address of the replica, host:port.")] = None,
    context: Annotated[list[str] | None, typer.Option(help="A sparse context feature, name=fid[,fid]. May be repeated.")] = None,
    dense: Annotated[list[str] | None, typer.Option(help="A dense context feature, name=value[,value]. May be repeated.")] = None,
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
        features = {name: _integers(name, value) for name, _, value in (pair.partition("=") for pair in context or ())}
        values = {name: _numbers(name, value) for name, _, value in (pair.partition("=") for pair in dense or ())}
        options = {"context": features, "dense_context": values, "timeout_s": 5.0, "log_impression": log}
        with RankClient(address) as client:
            result = client.rank_when_ready(user, item_ids, wait_s=wait, **options)
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


def _numbers(field: str, text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise typer.BadParameter(f"{field} must be numbers separated by commas, got {text!r}") from None


def _time_ms(field: str, text: str) -> int:
    if text.isdecimal() and len(text) not in _NO_MS_DIGITS:
        return int(text)
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{field} must be ISO 8601 or milliseconds since the epoch, got {text!r}") from None
    return int((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1000)


if __name__ == "__main__":
    main()
