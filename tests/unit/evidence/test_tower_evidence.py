"""The evidence on towers: what is compared is what it says, differences are those of the definition, and a quick run writes every row."""

from __future__ import annotations

import dataclasses
import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from monolith_py.config import ModelConfig

TOWER = Path(__file__).parents[2] / "evidence" / "tower.py"
Evidence = Callable[[str], ModuleType]


@pytest.fixture(scope="module")
def variants(evidence: Evidence) -> ModuleType:
    return evidence("tower_variants")


@pytest.fixture(scope="module")
def stream(evidence: Evidence) -> Any:
    return evidence("tower_streams").kuairand_stream(3000)


def everything(variants: ModuleType) -> list[Any]:
    return [*variants.CLAIMS, *variants.CONTROLS, *variants.BF16, *variants.DRIFT]


def outcome(evidence: Evidence, variant: Any, seed: int, auc: float, **more: Any) -> Any:
    fields = {field.name: None for field in dataclasses.fields(evidence("tower_passes").TowerOutcome)}
    given = {"variant": variant.name, "seed": seed, "aucs": (auc,), "resampled": np.array([auc, auc + 0.01]), "steady_ms": 1.0}
    return evidence("tower_passes").TowerOutcome(**fields | given | more)


def test_no_two_variants_have_one_name(variants: ModuleType) -> None:
    names = [variant.name for variant in everything(variants)]
    assert len(set(names)) == len(names)


def test_every_variant_is_a_model_whose_schedule_fits_a_pass(variants: ModuleType) -> None:
    for variant in everything(variants):
        config = ModelConfig.model_validate(variant.model(448, 869), strict=False)
        sparsity = config.sparsity
        assert (sparsity.preset == "dense") == (not variant.sparsity)
        assert sparsity.ramp is None or 0 < sparsity.ramp[0] < sparsity.ramp[1] < 869 // 2
        assert sparsity.drop_fraction_schedule != "cosine" or 0 < sparsity.cosine_steps <= 869


@pytest.mark.parametrize("inputs", [448, 312])
@pytest.mark.parametrize("share", [0.05, 0.1, 0.2])
def test_small_and_wide_towers_have_the_weights_of_the_sparse_one(variants: ModuleType, inputs: int, share: float) -> None:
    wanted = share * variants.num_weights(inputs, variants.BASE)
    for small in variants.SMALL[share]:
        assert variants.num_weights(inputs, tuple(small.model(inputs, 869)["tower"])) == pytest.approx(wanted, rel=0.025)
    for wide in variants.WIDES[share]:
        model = wide.model(inputs, 869)
        assert inputs * model["tower"][0] * model["sparsity"]["density"] == pytest.approx(wanted)


def test_the_drift_turns_the_labels_of_its_users_alone_and_from_the_middle_on(evidence: Evidence, stream: Any) -> None:
    streams = evidence("tower_streams")
    drifted = stream.with_drift()
    column = stream.features[streams.DRIFT_FEATURE]
    assert (column.lengths == 1).all()
    late = np.arange(len(stream)) >= len(stream) // 2
    turned = late & (column.fids == streams.DRIFT_VALUE)
    np.testing.assert_array_equal(drifted.labels, np.where(turned, 1 - stream.labels, stream.labels))
    assert 0.3 < turned.sum() / late.sum() < 0.7
    (_, start, middle), (_, after, _), (_, _, end) = drifted.spans
    assert start < middle == after == len(stream) // 2 and end == len(stream)


def test_batches_hold_every_fid_once_and_in_order(stream: Any) -> None:
    parts = list(stream.batches())
    assert [start for start, _ in parts] == list(range(0, 3000, 256))
    for name, column in stream.features.items():
        np.testing.assert_array_equal(np.concatenate([features.sparse[name].fids for _, features in parts]), column.fids)
        np.testing.assert_array_equal(np.concatenate([features.sparse[name].lengths for _, features in parts]), column.lengths)
    assert max(stream.features["tag"].lengths) > 1  # a feature of several fids is among them


def test_a_difference_pairs_seeds_and_ignores_what_only_one_has(evidence: Evidence, variants: ModuleType) -> None:
    findings, small = evidence("tower_findings"), variants.SMALL[0.1][0]
    results = {
        variants.DENSE.name: [outcome(evidence, variants.DENSE, seed, 0.7 + 0.01 * seed) for seed in range(4)],
        small.name: [outcome(evidence, small, seed, 0.7 + 0.01 * seed + gain) for seed, gain in ((1, 0.0001), (2, 0.0003))],
    }
    found = findings.difference(results, small, variants.DENSE)
    assert found.mean == pytest.approx(2.0)
    # Of 1 and 3: deviation sqrt(2), one degree of freedom.
    assert found.over_seeds == pytest.approx(12.706 * math.sqrt(2) / math.sqrt(2))
    assert found.low == pytest.approx(2.0 - 12.706) and found.high == pytest.approx(2.0 + 12.706)


@pytest.mark.parametrize(
    ("rule", "by", "mean", "half", "passes"),
    [
        ("within", 0.002, -19.0, 0.5, True),
        ("within", 0.002, -19.0, 1.5, False),
        ("above", 0.0, 1.0, 0.9, True),
        ("above", 0.0, 1.0, 1.1, False),
        ("not below", 0.0, -1.0, 1.1, True),
        ("not below", 0.0, -1.0, 0.9, False),
        ("above", 0.0, 0.5, math.nan, True),
    ],
)
def test_a_bar_goes_by_the_end_of_the_interval(evidence: Evidence, rule: str, by: float, mean: float, half: float, passes: bool) -> None:
    findings = evidence("tower_findings")
    bar = findings.Bar("x", findings.Difference(mean, half, 3.0), rule, by)
    assert bar.passes is passes
    assert bar.line.startswith(f"figure tower.quality.x {mean / 1e4:+.6f} AUC")
    assert bar.line.endswith("pass)" if passes else "FAIL)")


def test_the_rival_as_fast_is_the_best_dense_tower_that_takes_no_longer(evidence: Evidence, variants: ModuleType) -> None:
    findings, wide = evidence("tower_findings"), variants.WIDES[0.1][0]
    narrow, middle, broad = variants.LADDER[::2]
    results = {
        variant.name: [outcome(evidence, variant, 0, auc, steady_ms=ms)]
        for variant, auc, ms in ((wide, 0.73, 2.0), (narrow, 0.71, 1.0), (middle, 0.72, 2.0), (broad, 0.74, 2.1))
    }
    assert findings.as_fast(results, wide) is middle
    results[wide.name] = [outcome(evidence, wide, 0, 0.73, steady_ms=0.5)]
    assert findings.as_fast(results, wide) is narrow


def test_a_pass_predicts_before_it_learns(evidence: Evidence, variants: ModuleType, stream: Any) -> None:
    passes, variant = evidence("tower_passes"), variants.AT[0.1]
    one = passes.TowerPass(stream, variant, 0)
    predictions = one.run()
    turned = dataclasses.replace(stream, labels=1 - stream.labels)
    other = passes.TowerPass(turned, variant, 0).run()
    np.testing.assert_array_equal(predictions[:256], other[:256])
    assert not np.allclose(predictions[256:512], other[256:512])


def test_a_quick_run_without_a_folder_is_refused(evidence: Evidence, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        evidence("tower").main(["--quick"])
    assert "--quick needs --folder" in capsys.readouterr().err


@pytest.mark.parametrize("seeds", ["1", "11"])
def test_seeds_without_a_known_interval_are_refused(evidence: Evidence, capsys: pytest.CaptureFixture[str], seeds: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        evidence("tower").main(["--seeds", seeds])
    assert f"--seeds must be in [2, 10], got {seeds}" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_quick_run_writes_a_row_for_everything_that_is_compared(variants: ModuleType, tmp_path: Path) -> None:
    command = [sys.executable, str(TOWER), "--quick", "--folder", str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert len(re.findall(r"^figure tower\.quality\.", ran.stdout, re.MULTILINE)) == 10
    text = (tmp_path / "TOWER.md").read_text()
    sections = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    for place, wanted in ((0, [*variants.CLAIMS, *variants.CONTROLS]), (2, variants.BF16), (3, variants.DRIFT)):
        rows = re.findall(r"^\| (?!---)(.+) \|$", sections[place], re.MULTILINE)[1:]
        assert [", ".join(row.split(" | ")[:2]) for row in rows] == [variant.name for variant in wanted]
    assert sorted(re.findall(r"!\[.+\]\((.+)\)", text)) == sorted(path.name for path in tmp_path.glob("*.png"))
