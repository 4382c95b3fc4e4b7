"""Imports of the serving process and of the command line."""

from __future__ import annotations

import subprocess
import sys

import pytest


def loaded_by(code: str) -> set[str]:
    """Return the top-level packages that a new interpreter has loaded after `code`."""
    done = subprocess.run([sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in done.stdout.split()}


@pytest.mark.parametrize("process", ["process", "guard.process", "shadow.process", "replica.audit"])
def test_a_process_with_a_replica_loads_no_torch_at_its_start(process: str) -> None:
    assert not {"torch", "torchrec", "fbgemm_gpu", "pandas", "apache_beam"} & loaded_by(f"import monolith_serving.{process}")


@pytest.mark.parametrize("stranger", ["torch", "torchrec", "fbgemm_gpu", "grpc"])
def test_the_help_of_the_command_line_loads_none_of_the_heavy_packages(stranger: str) -> None:
    code = "import sys; sys.argv = ['monolith', '--help']\nfrom monolith_py.cli import main\ntry: main()\nexcept SystemExit: pass"
    assert stranger not in loaded_by(code)


def test_a_client_loads_no_torch() -> None:
    assert not loaded_by("import monolith_serving.client") & {"torch", "torchrec", "fbgemm_gpu"}
