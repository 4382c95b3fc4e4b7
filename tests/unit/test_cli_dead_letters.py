"""`monolith dead-letters` lists what could not be used, for people and for programs."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from monolith_py.cli import app
from monolith_py.clock import ManualClock
from monolith_py.data.events import DeadLetter
from monolith_py.io import Log
from monolith_py.io.log.dead_letters import DeadLetters

TOML = """
name = "shop"
log = {{ url = "sqlite:///{folder}/log", topic_prefix = "shop." }}
kv = {{ url = "memory:" }}
features = [{{ name = "user", source = "user_id" }}]
tasks = [{{ name = "is_click", action = "click" }}]
trainer = {{ checkpoint_dir = "{folder}/checkpoints" }}
"""
REASON = "action.kind must not be empty, got [bold]''"


@pytest.fixture
def job(tmp_path: Path, make_log: Callable[..., Log]) -> Path:
    log = make_log()
    log.create_topic("shop.dead_letters")
    letters = DeadLetters(log, "shop.dead_letters", ManualClock(1_700_000_000_000))
    letters.put_all([DeadLetter("shop.actions", 3, offset, b"\xff\x00%d" % offset, REASON) for offset in range(40, 45)])
    log.append("shop.dead_letters", [b"\xff"], time_ms=1)
    letters.put("shop.impressions", 0, 7, bytes(1_000_000), "too large")
    path = tmp_path / "job.toml"
    path.write_text(TOML.format(folder=tmp_path))
    return path


def run(job: Path, *arguments: str) -> bytes:
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["dead-letters", "--config", str(job), *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout_bytes


def test_letters_are_listed_oldest_first_with_place_time_and_reason(job: Path) -> None:
    lines = [line for line in run(job).decode().splitlines() if "shop." in line]
    places = [[cell.strip() for cell in line.split("\u2502")[1:5]] for line in lines]
    assert places[:2] == [["0", "shop.actions", "3", "40"], ["1", "shop.actions", "3", "41"]]
    assert len(lines) == 6
    assert "2023-11-14 22:13:20" in lines[0] and REASON in lines[0]
    assert "1000000" in lines[5], "the size of the whole message"


def test_the_last_letters_as_json(job: Path) -> None:
    first, last = map(json.loads, run(job, "--last", "3", "--json").splitlines())
    assert (first["letter"], first["topic"], first["partition"], first["offset"], first["reason"]) == (4, "shop.actions", 3, 44, REASON)
    assert base64.b64decode(first["value"]) == b"\xff\x0044"
    assert (last["offset"], last["value_bytes"], len(base64.b64decode(last["value"]))) == (7, 1_000_000, 900_000)


def test_the_value_of_one_letter_is_written_as_it_is(job: Path) -> None:
    assert run(job, "--value-of", "2") == b"\xff\x0042"


@pytest.mark.parametrize("offset", ["5", "99"])
def test_a_letter_that_is_not_there_is_an_error(job: Path, offset: str) -> None:
    result = CliRunner().invoke(app, ["dead-letters", "--config", str(job), "--value-of", offset])
    assert result.exit_code == 1
    assert result.stderr == f"LogError: 'shop.dead_letters' has no dead letter at offset {offset}\n"
