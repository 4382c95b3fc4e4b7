"""README of the chart: its values exist, its example renders, its object names are those of the chart."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

README = Path(__file__).parents[3] / "helm" / "monolith" / "README.md"


@pytest.fixture(scope="module")
def text() -> str:
    return README.read_text()


def test_the_example_renders_what_it_turns_on(text: str, render: Callable[..., dict[tuple[str, str], Any]]) -> None:
    (example,) = re.findall(r"^```yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    kinds = {kind for kind, _ in render(yaml.safe_load(example))}
    assert {"HorizontalPodAutoscaler", "PodDisruptionBudget", "NetworkPolicy"} <= kinds


def test_every_value_in_the_table_exists(text: str, default_values: dict[str, Any]) -> None:
    table = text.partition("\n## Values\n")[2].partition("\n## ")[0]
    first_cells = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    paths = [path for cell in first_cells for path in re.findall(r"`([A-Za-z.]+)`", cell) if not path.startswith(".")]
    assert len(paths) > 15
    for path in paths:
        here: Any = default_values
        for part in path.split("."):
            assert part in here, path
            here = here[part]


def test_every_named_object_is_rendered(text: str, defaults: dict[tuple[str, str], Any]) -> None:
    named = set(re.findall(r"`(shop-monolith[a-z-]*)`", text))
    assert len(named) > 4
    assert named <= {name for _, name in defaults}


def test_every_linked_file_exists(text: str) -> None:
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", text)
    assert [link for link in links if not (README.parent / link).exists()] == []
