"""The evidence on models: every variant is a job's model, and differences to DeepFM are those of the same seeds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from monolith_py.config import parse_job

Evidence = Callable[[str], ModuleType]


class Stream:
    num_inputs, batch_size = 64, 256

    def __len__(self) -> int:
        return 1000


def outcome(evidence: Evidence, variant: Any, seed: int, auc: float) -> Any:
    fields = {field.name: None for field in dataclasses.fields(evidence("tower_passes").TowerOutcome)}
    given = {"variant": variant.name, "seed": seed, "aucs": (auc,), "normalized_entropies": (0.9,), "steady_ms": 1.0, "whole_s": 2.0}
    return evidence("tower_passes").TowerOutcome(**fields | given)


def test_every_variant_is_the_model_of_a_job(evidence: Evidence) -> None:
    job = {
        "name": "models",
        "log": {"url": "sqlite:///unused"},
        "kv": {"url": "memory:"},
        "features": [{"name": "user_id", "source": "user_id"}],
        "tasks": [{"name": "click"}],
        "trainer": {"checkpoint_dir": "unused"},
    }
    variants = evidence("models_variants").VARIANTS
    kinds = [parse_job({**job, "model": variant.model(16, 100)}).model.kind for variant in variants]
    assert kinds[0] == "deepfm" and set(kinds) == {"deepfm", "dlrm", "dcn"}
    assert len({variant.name for variant in variants}) == len(variants)


def test_differences_are_those_to_deepfm_on_the_same_seeds(evidence: Evidence) -> None:
    first, second = evidence("models_variants").VARIANTS[:2]
    outcomes = {first.name: [outcome(evidence, first, seed, 0.7 + seed / 100) for seed in range(3)]}
    outcomes[second.name] = [outcome(evidence, second, seed, 0.701 + seed / 100) for seed in range(3)]
    text = evidence("models").report({"kuairand": outcomes}, {"kuairand": Stream()}, "models.py", 1.0)
    assert f"| {first.name} | 0.7100 | 0.9000 | - | 1.00 | 2.0 |" in text
    assert f"| {second.name} | 0.7110 | 0.9000 | +10.0 ± 0.0 | 1.00 | 2.0 |" in text


def test_a_quick_run_without_a_folder_is_refused(evidence: Evidence, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        evidence("models").main(["--quick"])
    assert "--quick needs --folder" in capsys.readouterr().err
