"""The evidence on pools of atoms: the prototype is the project's table where all atoms live, and keeps to its budget where not."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

POOL = Path(__file__).parents[2] / "evidence" / "pool.py"
Evidence = Callable[[str], ModuleType]


@pytest.fixture(scope="module")
def variants(evidence: Evidence) -> ModuleType:
    return evidence("pool_variants")


@pytest.fixture(scope="module")
def stream(evidence: Evidence) -> Any:
    return evidence("tower_streams").kuairand_stream(6000)


def one_pass(evidence: Evidence, stream: Any, variant: Any) -> Any:
    return evidence("pool_passes").PoolPass(variant.stream(stream), variant, 0)


def test_no_two_variants_have_one_name(variants: ModuleType) -> None:
    names = [variant.name for variant in variants.EVERYTHING]
    assert len(set(names)) == len(names)


def test_with_all_atoms_live_the_prototype_predicts_what_the_projects_table_does(
    evidence: Evidence, variants: ModuleType, stream: Any
) -> None:
    plain, pool = (one_pass(evidence, stream, variant) for variant in (variants.PLAIN[16], variants.ALL_LIVE))
    np.testing.assert_allclose(pool.run(), plain.run(), atol=2e-4)
    assert pool.rows == plain.rows
    assert pool.used_bytes == plain.used_bytes + pool.rows  # a mask of one byte for two atoms


@pytest.mark.parametrize("place", range(6))
def test_a_pool_fills_its_budget_exactly_and_its_dead_atoms_are_zero(
    evidence: Evidence, variants: ModuleType, stream: Any, place: int
) -> None:
    variant = variants.TRIED[place]
    rule = dataclasses.replace(variant.pool, every=2, grace=0)  # the stream has 24 steps
    one = one_pass(evidence, stream, dataclasses.replace(variant, pool=rule))
    one.run()
    pool = one.pool
    assert pool._num_live == int(pool._live.sum()) == round(rule.share * pool._live.numel())
    assert pool.num_swapped > 0
    assert not pool._weights[~pool._live].any()
    assert pool._weights[pool._live].any(dim=1).all()
    if rule.floor:
        assert pool._live[:, 0].all()


def test_a_static_pool_never_swaps(evidence: Evidence, variants: ModuleType, stream: Any) -> None:
    one = one_pass(evidence, stream, variants.STATIC[0])
    one.run()
    assert one.pool.num_swapped == 0
    np.testing.assert_array_equal(one.pool._live, one.pool._drawn)


def test_a_quick_run_without_a_folder_is_refused(evidence: Evidence, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        evidence("pool").main(["--quick"])
    assert "--quick needs --folder" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_quick_run_writes_a_row_for_everything_that_is_compared(variants: ModuleType, tmp_path: Path) -> None:
    command = [sys.executable, str(POOL), "--quick", "--folder", str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    text = (tmp_path / "POOL.md").read_text()
    section = re.split(r"^## ", text, flags=re.MULTILINE)[2]
    rows = re.findall(r"^\| (?!---)(.+) \|$", section, re.MULTILINE)[1:]
    assert [", ".join(row.split(" | ")[:2]) for row in rows] == [variant.name for variant in variants.EVERYTHING]
    assert "nan" not in text.lower()
    assert re.findall(r"!\[.+\]\((.+)\)", text) == [path.name for path in tmp_path.glob("*.png")]
