"""The command `monolith`, put together from its groups; each command imports its process or tool when it runs."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer
from rich.console import Console

from monolith_py.cli.history import history
from monolith_py.cli.operations import operations
from monolith_py.cli.processes import processes
from monolith_py.cli.quality import quality
from monolith_py.cli.requests import requests
from monolith_py.cli.rows import rows
from monolith_py.cli.versions import model_versions

app = typer.Typer(help="Real-time recommendation training.", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
for _group in (processes, operations, model_versions, rows, requests, history, quality):  # the order of --help
    app.add_typer(_group)


def _print_version(wanted: bool) -> None:
    if wanted:
        Console().print(f"monolith {version('monolith-py')}", highlight=False)
        raise typer.Exit


@app.callback()
def _options(
    version_wanted: Annotated[bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)] = False,
) -> None:
    """Real-time recommendation training."""


def main() -> None:
    """Run the command line."""
    app()
