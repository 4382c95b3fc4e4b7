"""Groups of `monolith --help`: every command is in the one of its users."""

from __future__ import annotations

import typer
from typer.testing import CliRunner

from monolith_py.cli import app

GROUPS = {
    "Processes of a job": ["join", "train", "serve", "shadow", "guard"],
    "Operators": ["check-config", "settings", "topics", "trim", "dead-letters"],
    "Model versions": ["versions", "digest", "rollback", "promote"],
    "Rows": ["forget", "export-rows"],
    "App developers": ["rank", "probe"],
    "Data engineers": ["load", "archive", "replay"],
    "ML engineers": ["backtest", "compare", "inspect"],
}


def test_every_command_is_in_the_group_of_its_users() -> None:
    groups: dict[str, list[str]] = {}
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        groups.setdefault(command.rich_help_panel, []).append(name)
    assert list(groups.items()) == list(GROUPS.items())


def test_help_prints_the_groups_in_this_order() -> None:
    done = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "160"})
    places = [done.stdout.index(line) for group, names in GROUPS.items() for line in (f"─ {group} ─", *(f"│ {name} " for name in names))]
    assert places == sorted(places)
