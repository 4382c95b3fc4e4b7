"""A way to import what lies in tests/evidence: scripts that import each other by their bare names."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

EVIDENCE = Path(__file__).parents[2] / "evidence"


@pytest.fixture(scope="session")
def evidence() -> Iterator[Callable[[str], ModuleType]]:
    """Return a function that imports a module of tests/evidence."""
    before = list(sys.path)
    sys.path.insert(0, str(EVIDENCE))
    yield importlib.import_module
    sys.path[:] = before
