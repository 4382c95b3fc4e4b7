"""Commands for app developers: requests to a replica."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from monolith_py.cli.job import ConfigOption, errors_to_exit, load_job
from monolith_py.cli.values import integers, numbers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from monolith_py.config import ServingConfig
    from monolith_py.data.columns import FeatureColumns
    from monolith_serving.channel import ClientSecurity
    from monolith_serving.client import RankResult

PANEL = "App developers"
requests = typer.Typer()


# More than six parameters: they are the command's options.
@requests.command(rich_help_panel=PANEL)
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
    feature: Annotated[list[str] | None, typer.Option(help="A feature to print as it was read. May be repeated.")] = None,
    ca_file: Annotated[Path | None, typer.Option(help="PEM file: TLS, with these authorities.", exists=True, dir_okay=False)] = None,
    cert_file: Annotated[Path | None, typer.Option(help="PEM file with the client's certificate.", exists=True, dir_okay=False)] = None,
    key_file: Annotated[Path | None, typer.Option(help="PEM file with its key.", exists=True, dir_okay=False)] = None,
    server_name: Annotated[str | None, typer.Option(help="Name in the replica's certificate, if not the host.")] = None,
) -> None:
    """Rank candidates for a user on a replica; print them best first. The request is no training data.

    The first token of MONOLITH_SERVING_TOKENS goes with the call.
    """
    from monolith_serving.client import RankClient, RankOptions

    with errors_to_exit():
        serving = None if config is None else load_job(config).serving
        if address is None:
            if serving is None:
                raise typer.BadParameter("give --address or --config")
            address = f"{serving.host}:{serving.port}"
        item_ids = integers("candidates", candidates)
        features = {name: integers(name, value) for name, _, value in (pair.partition("=") for pair in context or ())}
        values = {name: numbers(name, value) for name, _, value in (pair.partition("=") for pair in dense or ())}
        options: RankOptions = {"context": features, "dense_context": values, "timeout_s": 5.0, "log_impression": log}
        options |= {"top_k": top or len(item_ids), "task_names": task or (), "model_version": version, "explain": explain}
        options |= {"return_features": feature or ()}
        security = _client_security(serving, ca_file, cert_file, key_file, server_name)
        with RankClient(address, security=security) as client:
            result = client.rank_when_ready(user, item_ids, wait_s=wait, **options)
    _print_ranking(item_ids, result)


# More than six parameters: they are the command's options.
@requests.command(rich_help_panel=PANEL)
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

    with errors_to_exit():
        job = load_job(config)
        address = address or f"{job.serving.host}:{job.serving.port}"
        security = _client_security(job.serving, ca_file, cert_file, key_file, server_name)
        with closing(open_log(job.log)) as log, RankClient(address, security=security) as client:
            times = list(Probe(job, log, client, SystemClock(), timeout).run_many(count, interval, Random()))
    if as_json:
        typer.echo(json.dumps({"probes": len(times), "seconds": percentiles(times)}))
    else:
        print_probes(times)


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
    if result.shared_features is not None and result.candidate_features is not None:
        _print_features(item_ids, positions, result.shared_features, result.candidate_features)
    Console().print(f"request id: {result.request_id}", soft_wrap=True)


def _print_features(item_ids: list[int], positions: Sequence[int], shared: FeatureColumns, own: FeatureColumns) -> None:
    """Print features of a request: those that the candidates share, and those of each."""
    table = Table("item", "feature", "value", title="features as they were read; all: shared by the candidates")
    rows = [("all", shared, 0), *((str(item_ids[position]), own, place) for place, position in enumerate(positions))]
    for item, columns, row in rows:
        one = columns.slice(row, row + 1)
        for name, sparse in one.sparse.items():
            table.add_row(item, name, ", ".join(map(str, sparse.fids.tolist())) or "no fid")
        for name, values in one.dense.items():
            table.add_row(item, name, ", ".join(f"{value:g}" for value in values[0].tolist()))
    Console().print(table)
