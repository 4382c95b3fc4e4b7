"""ARCHITECTURE.md is true to the checkout: folders, floors, files."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "ARCHITECTURE.md").read_text()
PACKAGES = ("monolith_py", "streaming", "serving", "deploy/demo")
CORE = "monolith_py/core/"


def section(title: str) -> str:
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def folders() -> list[str]:
    """Return the folders that "Rooms and floors" lists, in its order."""
    return re.findall(r"^([a-z][\w/]*/) +\S", section("Rooms and floors"), re.MULTILINE)


@pytest.mark.parametrize("folder", folders())
def test_every_folder_named_exists(folder: str) -> None:
    assert (ROOT / folder).is_dir()


def test_every_package_folder_is_named() -> None:
    sources = [path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.suffix in (".py", ".cpp", ".hpp")]
    there = {f"{path.parent.relative_to(ROOT).as_posix()}/" for path in sources}
    assert there - set(folders()) == set()


def test_folders_of_the_core_include_only_those_above_them() -> None:
    order = list(dict.fromkeys(folder.removeprefix(CORE).partition("/")[0] for folder in folders() if folder.startswith(CORE)))[1:]
    for folder in order:
        sources = [path for path in (ROOT / CORE / folder).rglob("*") if path.suffix in (".cpp", ".hpp")]
        included = {name for path in sources for name in re.findall(r'#include "(\w+)/', path.read_text())}
        assert included <= set(order[: order.index(folder) + 1]), folder


def test_floors_are_those_of_the_import_linter() -> None:
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    linted = [{re.sub(r"[ ()]|monolith_py\.|monolith_|^_", "", name) for name in re.split("[|:]", layer)} for layer in contract["layers"]]
    block = re.search(r"\*\*Floors\.\*\*.*?```text\n(.*?)```", PAGE, re.DOTALL)[1]  # type: ignore[index]
    drawn = [set(re.findall(r"\w+", line.partition("(")[0])) for line in block.splitlines()]
    assert drawn == [{name.removeprefix("_") for name in layer} for layer in linted]


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`([a-zA-Z.]\w*/[\w/.-]+)`", PAGE))))
def test_every_file_named_exists(path: str) -> None:
    assert (ROOT / path).exists()
