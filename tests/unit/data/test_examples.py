"""Columns of examples: slices, repeats and concatenations against plain lists of rows."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from monolith_py.data.columns import FeatureColumns, SparseColumn
from monolith_py.data.examples import ExampleBatch

FIDS = st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3)
# One row: fids of "tags" and of "author", values of "age".
Row = tuple[list[int], list[int], list[float]]
ROWS = st.lists(st.tuples(FIDS, FIDS, st.lists(st.floats(-4, 4, width=32), min_size=2, max_size=2)), max_size=6)
NAMES = ("tags", "author", "age")


def column_of(rows: list[list[int]]) -> SparseColumn:
    return SparseColumn(np.array([fid for row in rows for fid in row], np.int64), np.array([len(row) for row in rows], np.int32))


def rows_of(column: SparseColumn) -> list[list[int]]:
    ends = np.cumsum(column.lengths).tolist()
    return [column.fids[end - length : end].tolist() for end, length in zip(ends, column.lengths.tolist(), strict=True)]


def columns_of(rows: list[Row], names: tuple[str, ...] = NAMES) -> FeatureColumns:
    sparse = {name: column_of([row[NAMES.index(name)] for row in rows]) for name in names if name != "age"}
    dense = {"age": np.array([row[2] for row in rows], np.float32).reshape(-1, 2)} if "age" in names else {}
    return FeatureColumns(len(rows), sparse, dense)


def listed(columns: FeatureColumns) -> tuple[int, dict[str, Any], dict[str, Any]]:
    sparse = {name: rows_of(column) for name, column in columns.sparse.items()}
    return columns.num_rows, sparse, {name: values.tolist() for name, values in columns.dense.items()}


@given(ROWS, st.data())
def test_a_slice_has_the_rows_of_its_range_as_a_list_would(rows: list[Row], data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(rows)))
    stop = data.draw(st.integers(start, len(rows) + 2))
    columns = columns_of(rows)
    assert listed(columns.slice(start, stop)) == listed(columns_of(rows[start:stop]))
    assert rows_of(columns.sparse["tags"].slice(start, stop)) == [row[0] for row in rows[start:stop]]


@given(st.lists(st.tuples(ROWS, st.sets(st.sampled_from(NAMES))), min_size=1, max_size=4))
def test_a_feature_absent_from_a_part_is_empty_or_zero_in_the_whole(parts: list[tuple[list[Row], set[str]]]) -> None:
    whole = FeatureColumns.concat([columns_of(rows, tuple(sorted(names))) for rows, names in parts])
    present = set().union(*(names for _, names in parts))
    missing: Row = ([], [], [0.0, 0.0])
    num_rows, sparse, dense = listed(whole)
    assert num_rows == sum(len(rows) for rows, _ in parts)
    assert set(sparse) | set(dense) == present
    for name in present:
        at = NAMES.index(name)
        expected = [row[at] if name in names else missing[at] for rows, names in parts for row in rows]
        assert {**sparse, **dense}[name] == expected


@given(ROWS.filter(len), st.integers(0, 4))
def test_a_repeated_row_occurs_as_often_as_asked(rows: list[Row], times: int) -> None:
    assert listed(columns_of(rows[:1]).repeat(times)) == listed(columns_of(rows[:1] * times))


def batch_of(rows: list[Row], first: int) -> ExampleBatch:
    """Examples that tell their number in each of their fields."""
    numbers = np.arange(first, first + len(rows))
    return ExampleBatch(
        tuple(f"r{number}" for number in numbers),
        numbers * 10,
        numbers * 1000,
        (numbers % 2).astype(np.uint8),
        (1 / (1 + numbers)).astype(np.float32),
        {"click": (numbers % 3 == 0).astype(np.float32), "like": (numbers % 5 == 0).astype(np.float32)},
        columns_of(rows),
    )


def facts(batch: ExampleBatch) -> Any:
    fields = (batch.item_ids, batch.times_ms, batch.kinds, batch.sample_rates, *batch.labels.values())
    return list(batch.request_ids), list(batch.labels), [values.tolist() for values in fields], listed(batch.features)


@given(ROWS, st.data())
def test_the_slices_of_a_batch_make_the_batch_again(rows: list[Row], data: st.DataObject) -> None:
    batch = batch_of(rows, 3)
    cuts = [0, *sorted(data.draw(st.lists(st.integers(0, len(rows)), max_size=3))), len(rows)]
    parts = [batch.slice(start, stop) for start, stop in pairwise(cuts)]
    assert [len(part) for part in parts] == [stop - start for start, stop in pairwise(cuts)]
    assert facts(parts[-1]) == facts(batch_of(rows[cuts[-2] :], 3 + cuts[-2]))
    assert facts(ExampleBatch.concat(parts)) == facts(batch)
