"""The benches of table, towers and trainer run, and print a finite number for every figure that RESULTS.md documents, and no other."""

from __future__ import annotations

import itertools
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest

from monolith_py import _core

BENCH = Path(__file__).parents[2] / "bench"
NEED_BOOST = {"table.flat_map_insert_ns", "table.insert_vs_boost_flat_map"}


def documented(prefix: str) -> set[str]:
    """Return the figures that rows of RESULTS.md begin with, braces expanded."""
    patterns = re.findall(rf"^\| `({prefix}\.[^`]+)`", (BENCH / "RESULTS.md").read_text(), re.MULTILINE)
    names = set()
    for pattern in patterns:
        parts = [part.split(",") for part in re.split(r"[{}]", pattern)]
        names |= {"".join(choice) for choice in itertools.product(*parts)}
    return names


@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["table", "tower", "train"])
def test_a_quick_run_prints_every_documented_figure_and_no_other(prefix: str) -> None:
    bench = BENCH / f"bench_{prefix}.py"
    run = subprocess.run([sys.executable, str(bench), "--quick"], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("machine ")
    printed = dict(re.findall(r"^figure (\S+) (\S+) \S+$", run.stdout, re.MULTILINE))
    absent = NEED_BOOST if "absent table.flat_map_insert_ns" in run.stdout else set()
    if not _core.has_amx():
        absent |= {name for name in documented(prefix) if "_bf16." in name}
    assert printed.keys() == documented(prefix) - absent
    assert [name for name, value in printed.items() if not math.isfinite(float(value))] == []
