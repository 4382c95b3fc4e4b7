"""Alerting rules: they name existing metrics, point to the runbook, and fire when they should."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml


@pytest.fixture(scope="module")
def rules(deploy: Path) -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load((deploy / "alerts.yaml").read_text())["groups"] for rule in group["rules"]]


def test_every_metric_in_a_rule_exists(rules: list[dict[str, Any]], board_builder: ModuleType) -> None:
    for rule in rules:
        named = board_builder.metrics_in(rule["expr"])
        assert named, rule["alert"]
        assert named <= set(board_builder.sample_names()), rule["alert"]


def test_every_metric_in_an_explanation_exists(rules: list[dict[str, Any]], board_builder: ModuleType) -> None:
    named = set().union(*(board_builder.metrics_in(text) for rule in rules for text in rule["annotations"].values()))
    # monolith_py is a folder, not a metric.
    assert named - {"monolith_py"} <= set(board_builder.sample_names())


def test_every_rule_says_how_urgent_it_is_and_what_to_do(rules: list[dict[str, Any]]) -> None:
    for rule in rules:
        assert rule["labels"]["severity"] in ("page", "ticket"), rule["alert"]
        assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}, rule["alert"]
    names = [rule["alert"] for rule in rules]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    "symptom",
    [
        "staleness_seconds",
        "behind_seconds",
        "example_lag_records",
        "dead_letters_total",
        "records_lost_total",
        "example_holes_total",
        "input_lag_records",
        "archive_lag_records",
        "topic_bytes",
        "checkpoint_failures_total",
        "progressive_ne",
        "served_calibration_ratio",
        "label_rate",
        "checkpoint_saved_timestamp_seconds",
        "freshness_seconds_bucket",
    ],
)
def test_each_way_to_fall_ill_has_an_alert(rules: list[dict[str, Any]], symptom: str) -> None:
    assert any(f"monolith_{symptom}" in rule["expr"] for rule in rules)


def test_every_rule_points_to_its_own_entry_in_the_runbook(rules: list[dict[str, Any]], deploy: Path) -> None:
    runbook = (deploy / "README.md").read_text().partition("\n## Runbook\n")[2]
    headings = re.findall(r"^### (\w+)$", runbook, re.MULTILINE)
    assert headings == [rule["alert"] for rule in rules]
    for rule in rules:
        path, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert (deploy.parent / path).samefile(deploy / "README.md")
        assert anchor == rule["alert"].lower()  # as GitHub and GitLab derive anchors from headings


def test_the_rules_fire_when_they_should(deploy: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("NO PROMTOOL, so it is only known that the rules name real metrics: install Debian's prometheus")
    here = Path(__file__).parent
    for arguments in (["check", "rules", str(deploy / "alerts.yaml")], ["test", "rules", str(here / "alerts_test.yaml")]):
        done = subprocess.run([promtool, *arguments], cwd=here, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
