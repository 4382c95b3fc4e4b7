"""The pages are true: code runs; commands, options, targets, settings and files exist."""

from __future__ import annotations

import inspect
import os
import re
import shutil
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

import monolith_py.sync
from monolith_py import config, table, tower
from monolith_py.cli import app
from monolith_py.config import JobConfig
from monolith_py.config.fields import Settings

ROOT = Path(__file__).parents[1]
README, REFERENCE, CONTRIBUTING = ROOT / "README.md", ROOT / "REFERENCE.md", ROOT / "CONTRIBUTING.md"
CHANGELOG, FOR_OPERATORS = ROOT / "CHANGELOG.md", ROOT / "deploy" / "README.md"
STREAMS = ROOT / "streaming" / "README.md"
GUIDES = [README, FOR_OPERATORS, ROOT / "deploy" / "APPS.md", STREAMS, ROOT / "ARCHITECTURE.md", REFERENCE, CONTRIBUTING, CHANGELOG]
TARGETS = set(re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split())  # type: ignore[index]
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
    shutil.copy(ROOT / "deploy" / "configs" / "demo.toml", tmp_path / "job.toml")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("guide", GUIDES, ids=name_of)
def test_every_make_target_exists(guide: Path) -> None:
    commands = re.findall(r"(?:^|`)make ([a-z][^`#\n]*)", text_of(guide), re.MULTILINE)
    assert {target for command in commands for target in command.split()} <= TARGETS


def test_every_make_target_is_described() -> None:
    assert set(re.findall(r"^\| `make ([a-z-]+)` \| \S", CONTRIBUTING.read_text(), re.MULTILINE)) == TARGETS


@pytest.mark.parametrize("guide", GUIDES, ids=name_of)
def test_every_monolith_command_exists_with_its_options(guide: Path) -> None:
    lines = re.findall(r"(?:^|`|-- +)monolith ([a-z][^`#\n]*)", text_of(guide), re.MULTILINE)
    assert lines or guide not in (README, FOR_OPERATORS)
    for line in lines:
        name, *words = line.split()
        assert name in COMMANDS, f"monolith {name}"
        options = {option for parameter in COMMANDS[name].params for option in parameter.opts}
        assert {word.partition("=")[0] for word in words if word.startswith("--")} <= options, line


def rows_of(title: str) -> list[list[str]]:
    """Return the cells of the table in a section of REFERENCE.md, without its head."""
    section = REFERENCE.read_text().partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line.startswith("|")]
    return rows[2:]


CAPABILITIES = [("Embedding tables", table, 35), ("Towers", tower, 10)]


@pytest.mark.parametrize(("title", "module", "at_least"), CAPABILITIES)
def test_every_name_of_a_capability_exists(title: str, module: ModuleType, at_least: int) -> None:
    names = [name for row in rows_of(title) for name in re.findall(r"`([A-Za-z_.]+)`", row[1])]
    assert len(names) > at_least
    for name in names:
        first, *others = name.removeprefix("monolith_py.").split(".")
        owner = getattr(monolith_py if name.startswith("monolith_py.") else module, first)
        for attribute in others:
            of_class = hasattr(owner, attribute) or attribute in getattr(owner, "__annotations__", {})
            assert of_class or f"self.{attribute}" in inspect.getsource(owner) or attribute in {field.name for field in fields(owner)}, name
            owner = getattr(owner, attribute, owner)


@pytest.mark.parametrize("title", [title for title, *_ in CAPABILITIES])
def test_every_capability_says_how_a_job_reaches_it(title: str) -> None:
    for capability, in_python, in_a_job in rows_of(title):
        assert "`" in in_python, capability
        settings = re.findall(r"`([a-z_]+\.[a-z_.]+)`", in_a_job)
        assert settings or in_a_job == "always" or in_a_job.startswith(("always: ", "library only: ", "`monolith ")), capability
        for setting in settings:
            assert setting_exists(setting), setting


def setting_exists(setting: str) -> bool:
    model: Any = JobConfig
    for part in setting.split("."):
        if model is None or part not in model.model_fields:
            return False
        model = next(_models(model.model_fields[part].annotation), None)
    return True


def test_every_section_of_a_job_is_listed_with_its_module() -> None:
    listed = {name: row[2] for row in rows_of("Settings") for name in re.findall(r"`\[*([a-z_.]+)\]*`", row[0])}
    for section, field in JobConfig.model_fields.items():
        module = next((model.__module__ for model in _models(field.annotation)), JobConfig.__module__)
        depth = 1 if section == "optimizer" else 0  # its two parts have a row, not the section itself
        (cell,) = {cell for name, cell in listed.items() if name.split(".")[0] == section and name.count(".") == depth}
        assert f"({module.replace('.', '/')}.py)" in cell, section


def test_the_changelog_lists_every_former_setting() -> None:
    models = [one for one in vars(config).values() if isinstance(one, type) and issubclass(one, Settings)]
    renamed = {old: new.split()[0] for model in models for old, new in model.renamed.items()}
    assert len(renamed) > 20
    assert {old: new for old, new in renamed.items() if f"| `{old}` | `{new}`" not in CHANGELOG.read_text()} == {}


def _models(kind: Any) -> Iterator[type[BaseModel]]:
    """Yield the settings that a type holds."""
    return (one for one in (kind, *_arguments(kind)) if isinstance(one, type) and issubclass(one, BaseModel))


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


@pytest.mark.parametrize("guide", GUIDES, ids=name_of)
def test_every_section_that_is_linked_exists(guide: Path) -> None:
    headings = re.findall(r"^#+ (.*)$", guide.read_text(), re.MULTILINE)
    slugs = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", guide.read_text())) <= slugs


def test_the_commit_hook_can_run() -> None:
    assert os.access(ROOT / "githooks" / "pre-commit", os.X_OK)
