"""Commands for the versions of a model."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console

from monolith_py.cli.job import ConfigOption, errors_to_exit, start_job
from monolith_py.cli.values import time_or_offsets

PANEL = "Model versions"
model_versions = typer.Typer()


@model_versions.command(rich_help_panel=PANEL)
def versions(config: ConfigOption) -> None:
    """List the versions of the model: the newest publication and all checkpoints, with digests."""
    from monolith_py.io import open_log
    from monolith_streaming.trainer.versions import versions
    from monolith_streaming.trainer.versions_view import print_versions

    job = start_job(config)
    with errors_to_exit(), closing(open_log(job.log)) as log:
        print_versions(versions(job, log))


@model_versions.command(rich_help_panel=PANEL)
def digest(config: ConfigOption) -> None:
    """Rebuild the model as a replica does, from checkpoint and updates, and compare its digest with that of each publication."""
    from monolith_py.clock import SystemClock
    from monolith_py.io import open_log
    from monolith_serving.replica.audit import audit_updates

    job = start_job(config)
    with errors_to_exit():
        with closing(open_log(job.log)) as log:
            audit = audit_updates(job, log, SystemClock())
        time = datetime.fromtimestamp(audit.watermark_ms / 1000, UTC).isoformat(timespec="seconds")
        Console().print(f"version {audit.version}, event time {time}: trainer {audit.digest}, replica {audit.rows:016x}", highlight=False)
        Console().print(f"{audit.num_compared} publications compared, all equal", highlight=False)


@model_versions.command(rich_help_panel=PANEL)
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

    until = None if skip_until is None else time_or_offsets("skip-until", skip_until)
    job = start_job(config)
    with errors_to_exit():
        with closing(open_log(job.log)) as log:
            moved = roll_back(job, log, to, until)
        Console().print(f"the trainer goes on from {to}; put aside: {', '.join(moved) or 'none'}", highlight=False)


@model_versions.command(rich_help_panel=PANEL)
def promote(
    config: ConfigOption,
    channel: Annotated[str, typer.Option(help="Channel, as in serving.channel of the replicas that serve it.")],
    to: Annotated[
        str | None, typer.Option(help="Checkpoint by its name in `monolith versions`, or by its number of batches; by default the newest.")
    ] = None,
) -> None:
    """Put a checkpoint into a channel: replicas with serving.channel serve it. The trainer may run, and prunes no channel."""
    from monolith_streaming.trainer.versions import promote

    job = start_job(config)
    with errors_to_exit():
        Console().print(f"channel {channel} has {promote(job, channel, to)}", highlight=False)
