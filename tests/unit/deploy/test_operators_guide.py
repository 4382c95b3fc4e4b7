"""Operator's guide: metrics, log lines, settings and anchors that it names exist."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel

from monolith_py.config import JobConfig

ROOT = Path(__file__).parents[3]
PACKAGES = {"monolith_py", "monolith_serving", "monolith_streaming"}


@pytest.fixture(scope="module")
def guide(deploy: Path) -> str:
    return (deploy / "README.md").read_text()


def anchor(heading: str) -> str:
    """Return the anchor that GitHub derives from a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def test_every_anchor_has_its_heading(guide: str) -> None:
    headings = {anchor(heading) for heading in re.findall(r"^#+ (.*)$", guide, re.MULTILINE)}
    links = set(re.findall(r"\]\(#([^)]*)\)", guide))
    assert len(links) > 15
    assert links <= headings


def test_every_section_is_in_the_contents(guide: str) -> None:
    contents, _, text = guide.partition("\n## ")
    sections = re.findall(r"^## (.*)$", f"## {text}", re.MULTILINE)
    assert re.findall(r"\[([^]]*)\]\(#", contents) == sections


def test_every_metric_exists(guide: str, board_builder: ModuleType) -> None:
    named = board_builder.metrics_in(guide) - PACKAGES
    known = set(board_builder.sample_names()) | set(board_builder.sample_names().values())
    assert len(named) > 20
    assert named <= known


def test_every_log_line_of_the_first_hour_is_in_a_process(guide: str) -> None:
    source = "\n".join(path.read_text() for folder in ("monolith_py", "serving", "streaming") for path in (ROOT / folder).rglob("*.py"))
    table = guide.partition("\n## The first hour\n")[2].partition("\n## ")[0]
    rows = [re.split(r" *\| *", row)[1:] for row in table.splitlines() if row.startswith("| ")][1:]
    lines = [line for row in rows for line in re.findall(r"`([^`]+)`", row[2])]
    assert len(rows) > 10 and len(lines) > 8
    for line in [*lines, "records are lost, going on at"]:
        assert line in source, line


def is_setting(path: str) -> bool:
    """Return whether `path` is a setting of a job, "section.key"."""
    model: Any = JobConfig
    for part in path.split("."):
        if not (isinstance(model, type) and issubclass(model, BaseModel)) or part not in model.model_fields:
            return False
        kind = model.model_fields[part].annotation
        model = next((one for one in (kind, *get_args(kind)) if isinstance(one, type) and issubclass(one, BaseModel)), kind)
    return True


def test_every_setting_is_of_a_job_or_of_the_chart(guide: str) -> None:
    values = yaml.safe_load((ROOT / "helm" / "monolith" / "values.yaml").read_text())

    def is_value(path: str) -> bool:
        here: Any = values
        for part in path.split("."):
            if not isinstance(here, dict) or part not in here:
                return False
            here = here[part]
        return True

    sections = "|".join({*JobConfig.model_fields, *values})
    named = set(re.findall(rf"`((?:{sections})\.[A-Za-z_.]+)", guide))
    assert len(named) > 20
    assert [path for path in named if not (is_setting(path) or is_value(path))] == []
