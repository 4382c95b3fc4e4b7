"""Parquet files of rows: those of other programs are read or refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from monolith_py.errors import ArchiveError
from monolith_py.table import EmbeddingTable, Sgd, read_rows, write_rows

FLOATS = [[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]


def write(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_a_file_with_fids_and_lists_of_any_float_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "rows", fid=pa.array([7, -7], pa.int32()), weights=pa.array(FLOATS, pa.list_(pa.float64())))
    (rows,) = read_rows(path)
    assert (rows.fids.tolist(), rows.weights.tolist(), rows.state.shape) == ([7, -7], FLOATS, (2, 0))
    assert (rows.counts.tolist(), rows.seen_s.tolist(), rows.forms) == ([1, 1], [0, 0], ())


@pytest.mark.parametrize(
    ("columns", "rule"),
    [
        ({"fid": [1, 2]}, r"must have the columns fid and weights, got none for \['weights'\]"),
        ({"fid": [1, None], "weights": FLOATS}, "fid must be integers without nulls, got int64 with 1 nulls"),
        ({"fid": ["a", "b"], "weights": FLOATS}, "fid must be integers without nulls, got string"),
        ({"fid": [1, 2], "weights": [1.0, 2.0]}, "weights must be lists of floats without nulls, got double"),
        ({"fid": [1, 2], "weights": [[1.0, 2.0], [1.0, 2.0, 3.0, 4.0]]}, "weights must be lists of one length without nulls"),
        ({"fid": [1, 2], "weights": [[1.0, None], [1.0, 2.0]]}, "weights must be lists of one length without nulls"),
    ],
)
def test_a_file_with_other_columns_is_refused(columns: dict[str, Any], rule: str, tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=rule):
        list(read_rows(write(tmp_path / "rows", **columns)))


def test_a_file_that_cannot_be_read_or_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no parquet")
    with pytest.raises(ArchiveError, match="text: "):
        list(read_rows(tmp_path / "text"))
    table = EmbeddingTable(4, Sgd())
    with pytest.raises(ArchiveError, match="absent/rows: "):
        write_rows(tmp_path / "absent" / "rows", table.chunks(), table.forms, table.state_width)


def test_a_failed_export_leaves_the_file_before(tmp_path: Path) -> None:
    table = EmbeddingTable(4, Sgd())
    table.assign([1], np.ones((1, 4), np.float32), now_s=0)
    path = tmp_path / "rows"
    write_rows(path, table.chunks(), table.forms, table.state_width)

    def broken() -> Any:
        yield from table.chunks()
        raise OSError("disk")

    with pytest.raises(ArchiveError, match="disk"):
        write_rows(path, broken(), table.forms, table.state_width)
    assert [chunk.fids.tolist() for chunk in read_rows(path)] == [[1]]
    assert len(list(tmp_path.iterdir())) == 1
