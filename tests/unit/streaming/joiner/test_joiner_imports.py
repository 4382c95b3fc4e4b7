"""The stream side of the joiner starts without torch, in a fraction of the time and memory."""

from __future__ import annotations

import subprocess
import sys

import pytest

MODULES = (
    "monolith_streaming.joiner.process",
    "monolith_streaming.joiner.loop",
    "monolith_streaming.joiner.sampling",
    "monolith_py.data.counters",
    "monolith_py.io",
)


@pytest.mark.parametrize("module", MODULES)
def test_the_joiner_does_not_import_torch_or_beam(module: str) -> None:
    script = f"import sys, {module}; print(sorted({{'torch', 'torchrec', 'apache_beam', 'grpc'}} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    assert found.strip() == "[]"
