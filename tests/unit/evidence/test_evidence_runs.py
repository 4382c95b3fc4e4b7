"""The evidence runs and writes a row for everything that it compares; a quick run cannot take the place of the results."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

TABLE = Path(__file__).parents[2] / "evidence" / "table.py"


def write_criteo(path: Path, num_rows: int = 600) -> None:
    generator = np.random.default_rng(4)
    absent = generator.random(num_rows) < 0.1
    columns = {"label": pa.array((generator.random(num_rows) < 0.3).astype(np.int8))}
    columns |= {f"I{n}": pa.array(generator.exponential(9, num_rows).astype(np.float32), mask=absent) for n in range(1, 14)}
    columns |= {f"C{n}": pa.array(generator.integers(0, 50, num_rows), mask=absent) for n in range(1, 27)}
    parquet.write_table(pa.table(columns), path)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_quick_run_writes_a_row_for_everything_that_is_compared(evidence: Callable[[str], ModuleType], tmp_path: Path) -> None:
    write_criteo(tmp_path / "criteo.parquet")
    folder = tmp_path / "out"
    command = [sys.executable, str(TABLE), "--quick", "--folder", str(folder), "--criteo", str(tmp_path / "criteo.parquet")]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    text = (folder / "TABLE.md").read_text()
    sections = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    variants = evidence("variants")
    compared = [variants.COLLISIONS, variants.COUNTERS, variants.FORGETTING, variants.CRITEO]
    for section, wanted in zip(sections[1:], compared, strict=True):
        rows = re.findall(r"^\| (?!---)(.+) \|$", section, re.MULTILINE)[1:]
        assert [row.split(" | ")[1] for row in rows] == [variant.label for variant in wanted]
        assert all(re.search(r"\| -?\d\.\d{4}( |$)", row) for row in rows)
    assert "| users | 162,541 | 149,970 | 149,970 | 7.73% | 162,541 |" in sections[0]
    assert "| movies | 59,047 | 57,361 | 57,361 | 2.86% | 59,047 |" in sections[0]
    assert "nan" not in text.lower()
    images = re.findall(r"!\[.+\]\((.+)\)", text)
    assert sorted(images) == sorted(path.name for path in folder.glob("*.png"))
    assert len(images) == 2


def test_a_quick_run_without_a_folder_is_refused(evidence: Callable[[str], ModuleType], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        evidence("table").main(["--quick"])
    assert "--quick needs --folder" in capsys.readouterr().err
