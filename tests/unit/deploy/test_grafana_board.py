"""Grafana board: built from existing metrics, all of them."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture(scope="module")
def board(board_builder: ModuleType) -> dict[str, Any]:
    """Committed board."""
    found: dict[str, Any] = json.loads(board_builder.BOARD.read_text())
    return found


def queries(board: dict[str, Any]) -> list[str]:
    return [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]


def test_the_committed_board_is_what_the_script_builds(board: dict[str, Any], board_builder: ModuleType) -> None:
    assert board == board_builder.build(), "run python deploy/grafana/build.py"


def test_every_query_names_metrics_that_exist(board: dict[str, Any], board_builder: ModuleType) -> None:
    for query in queries(board):
        named = board_builder.metrics_in(query)
        assert named, query
        assert named <= set(board_builder.sample_names()), query


def test_every_metric_is_on_the_board(board: dict[str, Any], board_builder: ModuleType) -> None:
    owners = board_builder.sample_names()
    shown = {owners[name] for query in queries(board) for name in board_builder.metrics_in(query)}
    assert set(owners.values()) - shown == set()


def test_every_metric_is_limited_to_the_chosen_namespace(board: dict[str, Any], board_builder: ModuleType) -> None:
    for query in queries(board):
        assert query.count('{namespace=~"$namespace"}') == len(board_builder.metrics_in(query)), query


def test_graphs_do_not_lie_over_each_other(board: dict[str, Any]) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


def test_prometheus_can_parse_every_query(board: dict[str, Any], tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("NO PROMTOOL, so nothing is known about the syntax of the board's queries: install Debian's prometheus")
    parsed = [query.replace("$__rate_interval", "1m").replace("$namespace", ".*") for query in queries(board)]
    rules = [{"record": f"query_{number}", "expr": query} for number, query in enumerate(parsed)]
    (tmp_path / "queries.json").write_text(json.dumps({"groups": [{"name": "board", "rules": rules}]}))
    done = subprocess.run([promtool, "check", "rules", str(tmp_path / "queries.json")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
