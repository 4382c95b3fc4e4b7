"""torchrec takes 190 MB and a second to load: only a process that makes KeyedJaggedTensors loads it."""

from __future__ import annotations

import subprocess
import sys

import pytest


def loaded_by(module: str) -> set[str]:
    """Return the top-level packages that a fresh interpreter has loaded after importing `module`."""
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in done.stdout.split()}


@pytest.mark.parametrize("module", ["monolith_py.model", "monolith_py.tower", "monolith_py.sync", "monolith_py.table"])
def test_a_package_of_models_tables_or_sync_loads_no_torchrec(module: str) -> None:
    loaded = loaded_by(module)
    assert "torch" in loaded
    assert not loaded & {"torchrec", "fbgemm_gpu"}


def test_the_command_line_loads_no_torch_until_a_command_needs_it() -> None:
    assert not loaded_by("monolith_py.cli") & {"torch", "torchrec", "fbgemm_gpu", "apache_beam", "grpc"}
