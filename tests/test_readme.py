"""What the guides say is true: code runs, commands, options, targets and files exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from monolith_py.cli import app

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


@pytest.mark.parametrize("guide", GUIDES, ids=name_of)
def test_every_file_that_is_linked_exists(guide: Path) -> None:
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", guide.read_text())
    assert links
    assert not [link for link in links if not (guide.parent / link).exists()]
