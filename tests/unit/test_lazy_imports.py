"""Packages that are imported at first use: torch takes 470 MB and 2 CPU seconds, torchrec another 190 MB and one."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

HEAVY = {"torch", "torchrec", "fbgemm_gpu", "pandas", "apache_beam"}


def loaded_by(module: str) -> set[str]:
    """Return the top-level packages that a fresh interpreter has loaded after importing `module`."""
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in done.stdout.split()}


PACKAGES = ["monolith_py.model", "monolith_py.tower", "monolith_py.sync", "monolith_py.table", "monolith_py.training"]


def test_packages_that_replicas_use_load_no_torch() -> None:
    assert not loaded_by(", ".join(PACKAGES)) & HEAVY


@pytest.mark.parametrize("package", PACKAGES)
def test_each_name_of_a_package_is_there(package: str) -> None:
    module = import_module(package)
    for name in module.__all__:
        assert hasattr(module, name), name
    assert not hasattr(module, "Absent")
