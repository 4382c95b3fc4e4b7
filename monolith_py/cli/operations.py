"""Commands for operators: settings, streams and their faults."""

from __future__ import annotations

import base64
import json
import sys
from contextlib import closing
from dataclasses import asdict, astuple
from typing import Annotated, Literal

import typer
from rich.console import Console

from monolith_py.cli.job import ConfigOption, errors_to_exit, load_job
from monolith_py.cli.values import time_ms
from monolith_py.errors import LogError

PANEL = "Operators"
operations = typer.Typer()


@operations.command("check-config", rich_help_panel=PANEL)
def check_config(config: ConfigOption) -> None:
    """Check the job's settings and print them, defaults included, as JSON."""
    from monolith_py.config.explain import mask_url
    from monolith_py.io.secret import check_secrets

    with errors_to_exit():
        parsed = load_job(config)
        remarks = check_secrets(parsed)
        job = parsed.model_dump(mode="json")
        for store in ("log", "kv"):
            job[store]["url"] = mask_url(job[store]["url"])
        Console().print_json(data=job)
    for remark in remarks:
        Console(stderr=True).print(remark, markup=False, soft_wrap=True)


@operations.command(rich_help_panel=PANEL)
def settings() -> None:
    """Print all settings of a job as commented TOML: meaning, range and default of each."""
    from monolith_py.config import JobConfig
    from monolith_py.config.reference import settings_reference

    sys.stdout.write(settings_reference(JobConfig))


@operations.command(rich_help_panel=PANEL)
def topics(config: ConfigOption) -> None:
    """Create the job's missing topics, print all with their partitions, and what to change of their settings."""
    from monolith_py.clock import SystemClock
    from monolith_py.io import open_log
    from monolith_py.io.log.topics import Topics, create_topics
    from monolith_streaming.retention import checkpoint_metas, retention_faults

    with errors_to_exit():
        job = load_job(config)
        with closing(open_log(job.log)) as log:
            create_topics(log, job.log)
            for topic in astuple(Topics.of(job.log)):
                typer.echo(f"{topic} {log.num_partitions(topic)}")
            faults = list(retention_faults(job, log, checkpoint_metas(job), SystemClock().now_ms()))
    for fault in faults:
        Console(stderr=True).print(fault, markup=False, soft_wrap=True)


@operations.command(rich_help_panel=PANEL)
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

    with errors_to_exit():
        job = load_job(config)
        with closing(open_log(job.log)) as log, closing(open_kv(job.kv)) as kv:
            bounds = safe_bounds(job, log, kv, SystemClock().now_ms(), keep_s)
            print_bounds(bounds, deleted=trim_log(log, bounds) if yes else None)


# More than six parameters: they are the command's options.
@operations.command("dead-letters", rich_help_panel=PANEL)
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
    retry: Annotated[
        bool, typer.Option("--retry", help="Put all selected letters back to their topics, each once; late ones only with --kind late.")
    ] = False,
    max_retries: Annotated[int, typer.Option("--max-retries", help="Leave letters that failed after so many retries.", min=1)] = 1,
) -> None:
    """List, count or retry the records that could not be used."""
    from monolith_py.clock import SystemClock
    from monolith_py.io import open_log
    from monolith_py.io.log.dead_letters import read_dead_letters
    from monolith_py.io.log.topics import Topics
    from monolith_streaming.dead_letters import Reinjector, Selection
    from monolith_streaming.dead_letters.view import print_counts, print_letters, print_results

    with errors_to_exit():
        job = load_job(config)
        times = (None if text is None else time_ms(name, text) for name, text in (("since", since), ("until", until)))
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
