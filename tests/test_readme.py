"""What the guides say is true: code runs, commands, options, targets and files exist."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import pytest
import typer
from pydantic import BaseModel

import monolith_py
from monolith_py import table, tower
from monolith_py.cli import app
from monolith_py.config import JobConfig

ROOT = Path(__file__).parents[1]
GUIDES = [ROOT / "README.md", ROOT / "deploy" / "README.md"]
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def name_of(guide: Path) -> str:
    return guide.relative_to(ROOT).as_posix()


def blocks(language: str) -> list[pytest.param]:
    """Return the code blocks of a language in all guides, to parametrize a test with."""
    return [
        pytest.param(match[1], id=f"{name_of(guide)}-{number}")
        for guide in GUIDES
        for number, match in enumerate(re.finditer(rf"^```{language}\n(.*?)^```$", guide.read_text(), re.MULTILINE | re.DOTALL))
    ]


def text_of(guide: Path) -> str:
    """Return the guide with continued lines joined."""
    return guide.read_text().replace("\\\n", " ")


@pytest.mark.parametrize("code", blocks("python"))
def test_python_runs(code: str, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("guide", GUIDES, ids=name_of)
def test_every_make_target_exists(guide: Path) -> None:
    targets = set(re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split())  # type: ignore[index]
    commands = re.findall(r"(?:^|`)make ([a-z][^`#\n]*)", text_of(guide), re.MULTILINE)
    named = {target for command in commands for target in command.split()}
    assert named <= targets


@pytest.mark.parametrize("guide", GUIDES, ids=name_of)
def test_every_monolith_command_exists_with_its_options(guide: Path) -> None:
    lines = re.findall(r"(?:^|`|-- +)monolith ([a-z][^`#\n]*)", text_of(guide), re.MULTILINE)
    assert lines
    for line in lines:
        name, *words = line.split()
        assert name in COMMANDS, f"monolith {name}"
        options = {option for parameter in COMMANDS[name].params for option in parameter.opts}
        assert {word.partition("=")[0] for word in words if word.startswith("--")} <= options, line


def what_it_does(part: str) -> list[list[str]]:
    """Return the cells of README's table of a part: "table" or "towers"."""
    section = (ROOT / "README.md").read_text().partition(f"## What the {part} do")[2].partition("\n## ")[0]
    return [line.strip("| ").split("|") for line in section.splitlines() if line.startswith("| ")][1:]


@pytest.mark.parametrize(("part", "module", "at_least"), [("table", table, 30), ("towers", tower, 8)])
def test_every_name_of_what_it_does_exists(part: str, module: ModuleType, at_least: int) -> None:
    names = [name for row in what_it_does(part) for name in re.findall(r"`([A-Za-z_.]+)`", row[1])]
    assert len(names) > at_least
    for name in names:
        first, *rest = name.removeprefix("monolith_py.").split(".")
        owner = getattr(monolith_py if name.startswith("monolith_py.") else module, first)
        for attribute in rest:
            of_class = hasattr(owner, attribute) or attribute in getattr(owner, "__annotations__", {})
            assert of_class or f"self.{attribute}" in inspect.getsource(owner) or attribute in {field.name for field in fields(owner)}, name


@pytest.mark.parametrize(("part", "at_least"), [("table", 8), ("towers", 10)])
def test_every_setting_of_what_it_does_exists(part: str, at_least: int) -> None:
    settings = [name for row in what_it_does(part) if len(row) > 2 for name in re.findall(r"`([a-z_]+\.[a-z_.]+)`", row[2])]
    assert len(settings) > at_least
    for setting in settings:
        model: Any = JobConfig
        for part in setting.split("."):
            kind = model.model_fields[part].annotation
            model = next((one for one in (kind, *_arguments(kind)) if isinstance(one, type) and issubclass(one, BaseModel)), None)


def _arguments(kind: Any) -> Iterator[Any]:
    """Yield all types that a generic type is made of."""
    for one in get_args(kind):
        yield one
        yield from _arguments(one)


@pytest.mark.parametrize("guide", GUIDES, ids=name_of)
def test_every_file_that_is_linked_exists(guide: Path) -> None:
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", guide.read_text())
    assert links
    assert not [link for link in links if not (guide.parent / link).exists()]
