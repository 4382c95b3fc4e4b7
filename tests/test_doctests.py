"""Examples in docstrings run and give what they show."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Name under which a package is installed -> its folder.
PACKAGES = {"monolith_py": "monolith_py", "monolith_streaming": "streaming", "monolith_serving": "serving", "monolith_demo": "deploy/demo"}


def modules(package: str, folder: Path) -> Iterator[str]:
    """Yield the names of all modules in `folder`, without importing any: that is left to the tests."""
    yield package
    for module in pkgutil.iter_modules([str(folder)]):
        if module.ispkg:
            yield from modules(f"{package}.{module.name}", folder / module.name)
        elif module.name != "__main__":  # runs the demo when imported
            yield f"{package}.{module.name}"


MODULES = [name for package, folder in PACKAGES.items() for name in modules(package, ROOT / folder)]


@pytest.mark.parametrize("name", MODULES)
def test_examples_hold(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_is_walked(package: str) -> None:
    assert len([name for name in MODULES if name.partition(".")[0] == package]) > 10
