"""The command `monolith`: processes of a job and tools. Each command imports its process lazily.

Longer than 300 lines: the options of 22 commands and their texts.
"""

from __future__ import annotations

import base64
import json
import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, astuple
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from monolith_py.config import JobConfig, ServingConfig, load_job
from monolith_py.config.explain import mask_url
from monolith_py.errors import ConfigError, LogError, MonolithError
from monolith_py.observe import serve_metrics, set_up_logging
from monolith_py.process import limit_openmp_spins

if TYPE_CHECKING:
    from monolith_serving.channel import ClientSecurity
    from monolith_serving.client import RankResult

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
TableOption = Annotated[Path | None, typer.Option(help="Parquet file.", exists=True, dir_okay=False)]
StopAtEndOption = Annotated[bool, typer.Option("--stop-at-end", help="Stop at the present end of the log.")]


@app.command("check-config")
def check_config(config: ConfigOption) -> None:
    """Check the job's settings and print them, defaults included, as JSON."""
    from monolith_py.io.secret import check_secrets

    with _errors_to_exit():
        parsed = load_job(config)
        remarks = check_secrets(parsed)
        job = parsed.model_dump(mode="json")
        for store in ("log", "kv"):
            job[store]["url"] = mask_url(job[store]["url"])
        Console().print_json(data=job)
    for remark in remarks:
        Console(stderr=True).print(remark, markup=False, soft_wrap=True)


@app.command()
def settings() -> None:
    """Print all settings of a job as commented TOML: meaning, range and default of each."""
    from monolith_py.config.reference import settings_reference

    sys.stdout.write(settings_reference(JobConfig))


@app.command()
def topics(config: ConfigOption) -> None:
    """Create the job's missing topics, print all with their partitions, and what to change of their settings."""
    from monolith_py.clock import SystemClock
    from monolith_py.io import open_log
    from monolith_py.io.log.topics import Topics, create_topics
    from monolith_streaming.retention import checkpoint_metas, retention_faults

    with _errors_to_exit():
        job = load_job(config)
        with closing(open_log(job.log)) as log:
            create_topics(log, job.log)
            for topic in astuple(Topics.of(job.log)):
                typer.echo(f"{topic} {log.num_partitions(topic)}")
            faults = list(retention_faults(job, log, checkpoint_metas(job), SystemClock().now_ms()))
    for fault in faults:
        Console(stderr=True).print(fault, markup=False, soft_wrap=True)


@app.command()
def trim(
    config: ConfigOption,
    yes: Annotated[bool, typer.Option("--yes", help="Delete; without it only list.")] = False,
    keep_s: Annotated[float | None, typer.Option("--keep-s", help="In place of the job's retention.keep_s, in seconds.", min=0.0)] = None,
) -> None:
    """List the records that no process needs any more; with --yes delete them."""
    from monolith_py.clock import SystemClock
    from monolith_py.io import open_kv, open_log
    from monolith_streaming.retention import safe_bounds
    from monolith_streaming.retention import trim as trim_log
    from monolith_streaming.retention.view import print_bounds

    with _errors_to_exit():
        job = load_job(config)
        with closing(open_log(job.log)) as log, closing(open_kv(job.kv)) as kv:
            bounds = safe_bounds(job, log, kv, SystemClock().now_ms(), keep_s)
            print_bounds(bounds, deleted=trim_log(log, bounds) if yes else None)


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
        if job.log.model_prefix:
            raise ConfigError(f"log.model_prefix must be empty for the joiner: all models share its examples, got {job.log.model_prefix!r}")
        run_joiner(job, stop_at_end=stop_at_end, force=force)


# More than six parameters: they are the command's options.
@app.command()
def train(
    config: ConfigOption,
    stop_at_end: StopAtEndOption = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start a new model although the log holds updates of an older one.")] = False,
    reset_table: Annotated[
        list[str] | None, typer.Option("--reset-table", help="Start this feature's table anew in place of restoring it. May be repeated.")
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
        live_from_ms = None if live_from is None else _time_ms("live-from", live_from)
        first = SourceOptions(source, None if start is None else _time_or_offsets("from", start), live_from_ms)
    job = _start(config, "trainer")
    with _errors_to_exit():
        resets = tuple(reset_table or ())
        run_trainer(job, stop_at_end=stop_at_end, options=StartOptions(fresh, resets, accept_hole, first))


@app.command()
def versions(config: ConfigOption) -> None:
    """List the versions of the model: the newest publication and all checkpoints, with digests."""
    from monolith_py.io import open_log
    from monolith_streaming.trainer.versions import versions
    from monolith_streaming.trainer.versions_view import print_versions

    job = _start(config)
    with _errors_to_exit(), closing(open_log(job.log)) as log:
        print_versions(versions(job, log))


@app.command()
def digest(config: ConfigOption) -> None:
    """Rebuild the model as a replica does, from checkpoint and updates, and compare its digest with that of each publication."""
    from monolith_py.clock import SystemClock
    from monolith_py.io import open_log
    from monolith_serving.replica.audit import audit_updates

    job = _start(config)
    with _errors_to_exit():
        with closing(open_log(job.log)) as log:
            audit = audit_updates(job, log, SystemClock())
        time = datetime.fromtimestamp(audit.watermark_ms / 1000, UTC).isoformat(timespec="seconds")
        Console().print(f"version {audit.version}, event time {time}: trainer {audit.digest}, replica {audit.rows:016x}", highlight=False)
        Console().print(f"{audit.num_compared} publications compared, all equal", highlight=False)


@app.command()
def rollback(
    config: ConfigOption,
    to: Annotated[str, typer.Option(help="Checkpoint by its name in `monolith versions`, or by its number of batches.")],
    skip_until: Annotated[
        str | None, typer.Option(help="Examples before are never learnt: event time as for replay, or offsets PARTITION:OFFSET[,...].")
    ] = None,
) -> None:
    """Make an older checkpoint the newest, with the trainer stopped: its next start goes on from there, and replicas follow."""
    from monolith_py.io import open_log
    from monolith_streaming.trainer.versions import roll_back

    until = None if skip_until is None else _time_or_offsets("skip-until", skip_until)
    job = _start(config)
    with _errors_to_exit():
        with closing(open_log(job.log)) as log:
            moved = roll_back(job, log, to, until)
        Console().print(f"the trainer goes on from {to}; put aside: {', '.join(moved) or 'none'}", highlight=False)


@app.command()
def promote(
    config: ConfigOption,
    channel: Annotated[str, typer.Option(help="Channel, as in serving.channel of the replicas that serve it.")],
    to: Annotated[
        str | None, typer.Option(help="Checkpoint by its name in `monolith versions`, or by its number of batches; by default the newest.")
    ] = None,
) -> None:
    """Put a checkpoint into a channel: replicas with serving.channel serve it. The trainer may run, and prunes no channel."""
    from monolith_streaming.trainer.versions import promote

    job = _start(config)
    with _errors_to_exit():
        Console().print(f"channel {channel} has {promote(job, channel, to)}", highlight=False)


@app.command()
def serve(config: ConfigOption) -> None:
    """Run a ranking replica."""
    from monolith_serving.process import run_server

    job = _start(config, "serving")
    with _errors_to_exit():
        run_server(job)


@app.command()
def shadow(config: ConfigOption) -> None:
    """Score the requests that replicas have answered with the model of this job, for `monolith compare`; answer nobody."""
    from monolith_serving.shadow.process import run_shadow

    job = _start(config, "shadow")
    with _errors_to_exit():
        run_shadow(job)


@app.command()
def guard(
    config: ConfigOption,
    accept: Annotated[bool, typer.Option("--accept", help="Take the present version for good, and end a hold.")] = False,
) -> None:
    """Judge each publication on recent examples; replicas with serving.guarded follow only those that are good."""
    from monolith_serving.guard.process import run_guard

    job = _start(config, "guard")
    with _errors_to_exit():
        run_guard(job, accept=accept)


@app.command()
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

    job = _start(config)
    with _errors_to_exit():
        shadows = [load_job(path) for path in shadow_jobs or ()]
        times_ms = 0 if start is None else _time_ms("start", start), None if end is None else _time_ms("end", end)
        compare_job(job, shadows, output, *times_ms)


# More than six parameters: they are the command's options.
@app.command()
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

    with _errors_to_exit():
        job = _start(config)
        options = ReplayOptions(archive, prefix, _offset_ranges(offsets) if offsets else None, output_folder, beam or LOCAL_RUNNER)
        times_ms = {"start_ms": _time_ms("start", start), "end_ms": _time_ms("end", end)} if start and end else {}
        result = run_replay(job, **times_ms, output=output, options=options)
    Console().print(result)
    if not result.requests:
        raise typer.Exit(_NOTHING_FOUND)


@app.command()
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

    job = _start(config, "archiver" if follow else None)
    with _errors_to_exit():
        run_archiver(job, folder, follow=follow, interval_s=interval, compacts=compact)


# More than six parameters: they are the command's options.
@app.command()
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

    with _errors_to_exit():
        job = _start(config)
        options = LoadOptions(read_columns(columns) if columns else LoadColumns(), prefix, skip_bad_rows)
        Console().print(run_load(job, Tables(users, items, impressions, actions), options))


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
@app.command("dead-letters")
def dead_letters(
    config: ConfigOption,
    last: Annotated[int, typer.Option(help="Number of the newest letters to list or count.", min=1)] = 100,
    topic: Annotated[str | None, typer.Option(help="Only letters of this topic, with the prefix.")] = None,
    kind: Annotated[
        Literal["broken", "late", "unmatched", "wrong_partition"] | None, typer.Option(help="Only letters of this kind.")
    ] = None,
    reason: Annotated[str | None, typer.Option(help="Only letters with this text in their reason.")] = None,
    since: Annotated[str | None, typer.Option(help="First time of putting aside: ISO 8601, or milliseconds since the epoch.")] = None,
    until: Annotated[str | None, typer.Option(help="End of that time, exclusive, in the same form.")] = None,
    count: Annotated[bool, typer.Option("--count", help="Count the letters by topic, kind and rule.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document a line, with the values in base64.")] = False,
    value_of: Annotated[
        int | None, typer.Option("--value-of", help="Write the value of the letter at this offset to standard output.", min=0)
    ] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Put all selected letters back to their topics, each once.")] = False,
    max_retries: Annotated[int, typer.Option("--max-retries", help="Leave letters that failed after so many retries.", min=1)] = 1,
) -> None:
    """List, count or retry the records that could not be used."""
    from monolith_py.clock import SystemClock
    from monolith_py.io import open_log
    from monolith_py.io.log.dead_letters import read_dead_letters
    from monolith_py.io.log.topics import Topics
    from monolith_streaming.dead_letters import Reinjector, Selection
    from monolith_streaming.dead_letters.view import print_counts, print_letters, print_results

    with _errors_to_exit():
        job = load_job(config)
        times = (None if text is None else _time_ms(name, text) for name, text in (("since", since), ("until", until)))
        selection, topics = Selection(topic, kind, reason, *times), Topics.of(job.log)
        with closing(open_log(job.log)) as log:
            if retry:
                print_results(Reinjector(log, topics, SystemClock(), max_attempts=max_retries).run(selection))
                return
            if value_of is not None:
                last = max(1, log.end_offset(topics.dead_letters) - value_of)
            letters = list(read_dead_letters(log, topics.dead_letters, last))
        if value_of is not None:
            found = next((letter for offset, letter in letters if offset == value_of), None)
            if found is None:
                raise LogError(f"{topics.dead_letters!r} has no dead letter at offset {value_of}")
            sys.stdout.buffer.write(found.value)
            return
    letters = [(offset, letter) for offset, letter in letters if selection.takes(letter)]
    if count:
        print_counts(letter for _, letter in letters)
    elif as_json:
        for offset, letter in letters:
            typer.echo(json.dumps({"letter": offset, **asdict(letter), "value": base64.b64encode(letter.value).decode()}))
    else:
        print_letters(letters)


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
    top: Annotated[int, typer.Option(help="Print the best candidates alone; 0: all.", min=0, max=(1 << 32) - 1)] = 0,
    task: Annotated[list[str] | None, typer.Option(help="A task to print; the first orders the candidates. May be repeated.")] = None,
    version: Annotated[str, typer.Option(help="Model version that must answer, generation or generation.seq.")] = "",
    explain: Annotated[bool, typer.Option(help="Print how much each feature adds to the score of the best candidate.")] = False,
    ca_file: Annotated[Path | None, typer.Option(help="PEM file: TLS, with these authorities.", exists=True, dir_okay=False)] = None,
    cert_file: Annotated[Path | None, typer.Option(help="PEM file with the client's certificate.", exists=True, dir_okay=False)] = None,
    key_file: Annotated[Path | None, typer.Option(help="PEM file with its key.", exists=True, dir_okay=False)] = None,
    server_name: Annotated[str | None, typer.Option(help="Name in the replica's certificate, if not the host.")] = None,
) -> None:
    """Rank candidates for a user on a replica; print them best first. The request is no training data.

    The first token of MONOLITH_SERVING_TOKENS goes with the call.
    """
    from monolith_serving.client import RankClient, RankOptions

    with _errors_to_exit():
        serving = None if config is None else load_job(config).serving
        if address is None:
            if serving is None:
                raise typer.BadParameter("give --address or --config")
            address = f"{serving.host}:{serving.port}"
        item_ids = _integers("candidates", candidates)
        features = {name: _integers(name, value) for name, _, value in (pair.partition("=") for pair in context or ())}
        values = {name: _numbers(name, value) for name, _, value in (pair.partition("=") for pair in dense or ())}
        options: RankOptions = {"context": features, "dense_context": values, "timeout_s": 5.0, "log_impression": log}
        options |= {"top_k": top or len(item_ids), "task_names": task or (), "model_version": version, "explain": explain}
        security = _client_security(serving, ca_file, cert_file, key_file, server_name)
        with RankClient(address, security=security) as client:
            result = client.rank_when_ready(user, item_ids, wait_s=wait, **options)
    _print_ranking(item_ids, result)


# More than six parameters: they are the command's options.
@app.command()
def probe(
    config: ConfigOption,
    address: Annotated[str | None, typer.Option(help="Address of the replica, host:port; by default that of the job.")] = None,
    count: Annotated[int, typer.Option(help="Number of clicks, one after the other.", min=1)] = 1,
    interval: Annotated[float, typer.Option(help="Mean pause between two clicks, in seconds.", min=0.0)] = 0.5,
    timeout: Annotated[float, typer.Option(help="Longest wait for each part of the way, in seconds.", min=0.1)] = 30.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    ca_file: Annotated[Path | None, typer.Option(help="PEM file: TLS, with these authorities.", exists=True, dir_okay=False)] = None,
    cert_file: Annotated[Path | None, typer.Option(help="PEM file with the client's certificate.", exists=True, dir_okay=False)] = None,
    key_file: Annotated[Path | None, typer.Option(help="PEM file with its key.", exists=True, dir_okay=False)] = None,
    server_name: Annotated[str | None, typer.Option(help="Name in the replica's certificate, if not the host.")] = None,
) -> None:
    """Click an unknown item and wait until its served score changes; print the time of each part. The job learns one example a click."""
    from random import Random

    from monolith_py.clock import SystemClock
    from monolith_py.io import open_log
    from monolith_serving.client import RankClient
    from monolith_serving.probe.probe import Probe
    from monolith_serving.probe.view import percentiles, print_probes

    with _errors_to_exit():
        job = load_job(config)
        address = address or f"{job.serving.host}:{job.serving.port}"
        security = _client_security(job.serving, ca_file, cert_file, key_file, server_name)
        with closing(open_log(job.log)) as log, RankClient(address, security=security) as client:
            times = list(Probe(job, log, client, SystemClock(), timeout).run_many(count, interval, Random()))
    if as_json:
        typer.echo(json.dumps({"probes": len(times), "seconds": percentiles(times)}))
    else:
        print_probes(times)


@app.command()
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
    with _errors_to_exit(), ExitStack() as stack:
        if config is not None:
            checkpoint = stack.enter_context(fetched_checkpoint(load_job(config), str(checkpoint), SystemClock()))
        inspection = inspect_checkpoint(checkpoint, feature, fid)
    if as_json:
        Console().print_json(json.dumps(inspection.document(), allow_nan=False))
    else:
        print_inspection(inspection)


def _client_security(
    serving: ServingConfig | None, ca_file: Path | None, cert_file: Path | None, key_file: Path | None, server_name: str | None
) -> ClientSecurity:
    """Return the access of a command to a replica: TLS with an authority or if the job has it, and the first token of the environment."""
    from monolith_py.io.secret import read_tokens
    from monolith_serving.channel import ClientSecurity

    ca, certificate, key = (None if path is None else str(path) for path in (ca_file, cert_file, key_file))
    has_tls = ca is not None or (serving is not None and serving.security.certificate_file is not None)
    return ClientSecurity(has_tls, ca, certificate, key, server_name, next(iter(read_tokens()), None))


def _print_ranking(item_ids: list[int], result: RankResult) -> None:
    """Print the candidates of a result, best first."""
    table = Table("rank", "item", *result.task_names, title=f"model {result.model_version}, {result.staleness_ms} ms stale")
    positions = range(len(result.scores)) if result.candidates is None else result.candidates.tolist()
    for place, (position, scores) in enumerate(zip(positions, result.scores.tolist(), strict=True), start=1):
        table.add_row(str(place), str(item_ids[position]), *(f"{score:.4f}" for score in scores))
    Console().print(table)
    if result.contributions is not None:
        features = Table("feature", *result.task_names, title="score minus score without the feature, best candidate")
        for name, values in zip(result.feature_names, result.contributions[0].T.tolist(), strict=True):
            features.add_row(name, *(f"{value:+.4f}" for value in values))
        Console().print(features)
    Console().print(f"request id: {result.request_id}", soft_wrap=True)


def main() -> None:
    """Run the command line."""
    app()


def _start(config: Path, role: Literal["joiner", "trainer", "archiver", "serving", "shadow", "guard"] | None = None) -> JobConfig:
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


def _offset_ranges(texts: list[str]) -> dict[int, tuple[int, int]]:
    """Return [start, stop) of the offsets of each partition."""
    found = [re.fullmatch(r"(\d+):(\d+)-(\d+)", text) for text in texts]
    if not all(found):
        raise typer.BadParameter(f"offsets must be PARTITION:START-STOP, got {texts}")
    return {int(one[1]): (int(one[2]), int(one[3])) for one in found if one}


def _time_or_offsets(field: str, text: str) -> int | dict[int, int]:
    """Return an event time in milliseconds, or the offset of each partition."""
    if re.fullmatch(r"\d+:\d+(,\d+:\d+)*", text):
        return {int(partition): int(offset) for partition, offset in (part.split(":") for part in text.split(","))}
    return _time_ms(field, text)


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
