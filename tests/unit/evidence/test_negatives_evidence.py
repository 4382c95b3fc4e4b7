"""The evidence on negatives: its examples are those of the joiner, its losses have the true rate as minimum, its page has every row."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from monolith_py.config import parse_job
from monolith_py.data.events import Action
from monolith_py.data.examples import ExampleKind
from monolith_streaming.joiner.request import Outcome, Request, SeenAction
from monolith_streaming.joiner.rules import FOREVER_MS, Rules, advance, see_action, see_impression

Evidence = Callable[[str], ModuleType]


@pytest.fixture(scope="module")
def policies(evidence: Evidence) -> ModuleType:
    return evidence("negatives_policies")


def impressions_of(policies: ModuleType, num: int) -> Any:
    """Impressions with positives of all tasks, no two of them at one time."""
    generator = np.random.default_rng(5)
    times = np.sort(generator.integers(1, 10_000_000, num)) * 1000
    acted = {}
    for place, task in enumerate(("long_view", "is_like", "is_click")):
        delays = generator.exponential(300, num).astype(np.int64) * 1000 + place + 1
        acted[task] = np.where(generator.random(num) < 0.4, times + delays, policies.NEVER_MS)
    return policies.Impressions(generator.integers(1, 6, (4, num)), times, acted, num // 2)


def joined(policy: Any, impressions: Any) -> list[tuple[int, int, tuple[bool, ...], bool]]:
    """(known at, impression, labels, retracts) by the joiner's rules in Python."""
    late = "drop" if policy.late == "drop" else "retract"
    joiner = {"window_s": policy.windows_s[0], "allowed_lateness_s": 1e9, "late": late, "emit": "candidate"}
    job = parse_job(
        {
            "name": "test",
            "log": {"url": "sqlite:///unused"},
            "kv": {"url": "memory:"},
            "features": [{"name": "user", "source": "user_id"}],
            "tasks": [{"name": task, "action": task} for task in policy.tasks],
            "joiner": {**joiner, "terminal_actions": policy.tasks if policy.known == "first" else ()},
            "trainer": {"checkpoint_dir": "unused"},
        }
    )
    rules, found = Rules.of(job), []
    for row, time_ms in enumerate(impressions.times_ms.tolist()):
        request, outcome = Request(str(row)), Outcome()
        see_impression(rules, request, time_ms, [1], outcome)
        for when, task in sorted((int(impressions.acted_ms[task][row]), task) for task in policy.tasks):
            if when < policy_end(impressions):
                see_action(rules, request, SeenAction(Action(str(row), 1, task, when), 0, b""), outcome)
        advance(rules, request, FOREVER_MS, outcome)
        for emission in outcome.emissions:
            labels = tuple(bool(emission.labels >> place & 1) for place in range(len(policy.tasks)))
            found.append((emission.known_ms, row, labels, emission.kind == ExampleKind.RETRACTION))
    return sorted(found)


def policy_end(impressions: Any) -> int:
    return int(impressions.times_ms[-1]) + 1_000_000_000_000


@pytest.mark.parametrize("name", ["long_view all", "window 30", "dropped 30", "two all", "two first", "two early", "two short"])
def test_the_examples_are_those_of_the_joiner(policies: ModuleType, name: str) -> None:
    policy = next(one for one in policies.POLICIES if one.name == name)
    impressions = impressions_of(policies, 300)
    found = policies.emitted(impressions, policy, 0)
    rows = zip(found.known_ms.tolist(), found.rows.tolist(), map(tuple, found.labels.tolist()), found.retracts.tolist(), strict=True)
    assert sorted(rows) == joined(policy, impressions)
    assert (np.diff(found.known_ms) >= 0).all() and found.tasks.all()


def test_as_many_negatives_are_kept_by_tab_as_at_one_rate(policies: ModuleType) -> None:
    impressions = impressions_of(policies, 5000)
    for policy in policies.SAMPLING:
        negative = impressions.labels(policy.tasks[0]) == 0
        rates = policies.rates_of(impressions, policy)
        assert abs(rates[negative].mean() - policy.rate) < 1e-3 and rates.max() <= 1.0
        assert len(np.unique(rates)) == {"one": 1, "odds": 5, "small": 2}[policy.by_tab]


def gradients(evidence: Evidence, correction: str, p: float, rate: float) -> dict[str, float]:
    """The gradient of a positive, a negative and a retraction at the prediction p."""
    policies, passes = evidence("negatives_policies"), evidence("negatives_passes")
    found = {}
    for name, label, retracts in (("positive", True, False), ("negative", False, False), ("retraction", True, True)):
        one = np.ones(1, np.int64)
        labels = np.array([[label]])
        examples = policies.Emitted(one, one, labels, np.array([retracts]), np.array([rate], np.float32), np.ones((1, 1), np.bool_))
        logit = torch.tensor([[float(np.log(p / (1 - p)))]], requires_grad=True)
        passes.policy_loss(logit, torch.tensor(labels, dtype=torch.float32), examples, correction).backward()
        assert logit.grad is not None
        found[name] = float(logit.grad)
    return found


@pytest.mark.parametrize("rate", [1.0, 0.5, 0.1, 0.01])
@pytest.mark.parametrize("correction", ["weights", "log_odds"])
def test_a_sample_has_its_minimum_at_the_true_rate(evidence: Evidence, correction: str, rate: float) -> None:
    p = 0.3
    pull = gradients(evidence, correction, p, rate)
    assert p * pull["positive"] + (1 - p) * rate * pull["negative"] == pytest.approx(0, abs=1e-5)
    assert pull["negative"] + pull["retraction"] == pytest.approx(pull["positive"], rel=1e-4)


@pytest.mark.parametrize("correction", ["fnw", "fnc"])
def test_fake_negatives_leave_the_minimum_at_the_true_rate(evidence: Evidence, correction: str) -> None:
    """Every impression is a negative, and a share p of them a positive as well."""
    for p in (0.02, 0.3, 0.8):
        pull = gradients(evidence, correction, p, 1.0)
        assert p * pull["positive"] + pull["negative"] == pytest.approx(0, abs=1e-5)


def test_every_policy_has_a_row(evidence: Evidence, policies: ModuleType, tmp_path: Path) -> None:
    passes, report = evidence("negatives_passes"), evidence("negatives_report")
    generator = np.random.default_rng(0)
    outcomes = {
        policy.name: [
            passes.PolicyOutcome(policy.name, seed, {task: passes.Figures(*generator.random(4)) for task in policy.tasks}, 100)
            for seed in range(2)
        ]
        for policy in policies.POLICIES
    }
    report.write_report(tmp_path, outcomes, impressions_of(policies, 300), "A test.")
    text = (tmp_path / "NEGATIVES.md").read_text()
    for policy in policies.POLICIES:
        assert f"| {policy.label} |" in text or policy.name == "long_view all"
    questions = [pair.question for pair in report.PAIRS]
    assert re.findall(r"^\| ([^|]+) \| [+-]\d", text, re.MULTILINE) == questions
    assert "nan" not in text


def test_a_pass_scores_every_impression(evidence: Evidence, policies: ModuleType) -> None:
    passes = evidence("negatives_passes")
    impressions = policies.load_impressions(100)
    outcome = passes.run_policy(impressions, next(one for one in policies.POLICIES if one.name == "two windows"), 1)
    assert outcome.num_examples >= 200
    assert {0 < figures.auc < 1 for figures in outcome.figures.values()} == {True}


def test_a_quick_run_without_a_folder_is_refused(evidence: Evidence, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        evidence("negatives").main(["--quick"])
    assert "--quick needs --folder" in capsys.readouterr().err
