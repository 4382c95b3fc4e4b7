"""Rows and columns that break a rule: named before anything is written, or counted and left out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from monolith_py.config.load import parse_columns
from monolith_py.data.ids import fid_from_text
from monolith_py.errors import ArchiveError, ConfigError, WireError

NOW_MS = 1_700_000_000_000

BAD = {
    "age": ([30.5, float("nan"), 7.0], "column 'age' must be finite in float32, got nan at row 1"),
    "age ": ([30.5, None, 7.0], "column 'age' must not be null, got None at row 1"),
    "age  ": ([30.5, 1e39, 7.0], r"column 'age' must be finite in float32, got 1e\+39 at row 1"),
    "user_id": (["ann", "bob", None], "column 'user_id' must not be null, got None at row 2"),
    "country": ([["a"], ["b", None], None], r"column 'country' must have no null in a list, got \['b', None\] at row 1"),
}


@pytest.mark.parametrize("column", BAD)
def test_a_bad_row_is_named_and_nothing_is_written(target: Any, write: Callable[..., Path], column: str) -> None:
    values, message = BAD[column]
    good = {"user_id": ["ann", "bob", "cyd"], "country": ["nz", "au", "fr"], "age": [30.5, 41.0, 7.0]}
    table = write("users", **(good | {column.strip(): values}))
    with pytest.raises(WireError, match=message):
        target.load(users=table)
    assert list(target.kv.scan("")) == []


def test_bad_rows_may_be_counted_and_left_out(target: Any, write: Callable[..., Path]) -> None:
    table = write("users", user_id=["ann", "bob", None], country=["nz", "au", "fr"], age=[float("inf"), 41.0, float("nan")])
    result = target.load(users=table, skip_bad_rows=True)
    assert result.users == 1
    assert result.bad_rows == {f"{table}: column 'user_id' must not be null": 1, f"{table}: column 'age' must be finite in float32": 2}
    assert [key for key, _ in target.kv.scan("user:")] == [f"user:{fid_from_text('bob')}"]


WRONG = {
    "seconds": ({"time_ms": [1_700_000_000] * 4}, "column 'time_ms' must be in milliseconds and at most 300000 ms ahead of the wall clock"),
    "ahead": ({"time_ms": [NOW_MS * 2] * 4}, "column 'time_ms' must be in milliseconds and at most 300000 ms ahead of the wall clock"),
    "no time": ({"time_ms": [0] * 4}, "column 'time_ms' must be after 1970, got 0 at row 0"),
    "float time": ({"time_ms": [1.5] * 4}, "column 'time_ms' must be integers or timestamps, got double"),
    "float id": ({"item_id": [1.5] * 4}, "column 'item_id' must be integers or texts, got double"),
    "large id": (
        {"item_id": pa.array([1 << 63] * 4, pa.uint64())},
        "column 'item_id' must be integers of 63 bits, got 9223372036854775808",
    ),
    "no item": ({"item_id": [[1], [], [2], [3]]}, r"column 'item_id' must have a candidate, got \[\] at row 1"),
    "long id": ({"request_id": ["r" * 513] * 4}, "column 'request_id' must have 1 to 512 characters, got 'rrr"),
    "empty id": ({"request_id": ["r", "", "q", "q"]}, "column 'request_id' must have 1 to 512 characters, got '' at row 1"),
    "dense text": ({"age": ["a"] * 4}, "column 'age' must be numbers, got string"),
    "dense width": ({"price": [[1.0]] * 4}, r"column 'price' must have 2 values, got \[1\.0\] at row 0"),
    "dense scalar": ({"price": [1.0] * 4}, "column 'price' must have lists of 2 values, got double"),
    "two times": (
        {"time_ms": [NOW_MS, NOW_MS, NOW_MS + 1, NOW_MS]},
        "rows of one request must have one time and one user, got several for",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_history_that_breaks_a_rule_is_refused_before_anything_is_written(
    target: Any, write: Callable[..., Path], case: str, history: dict[str, Any]
) -> None:
    changed, message = WRONG[case]
    with pytest.raises(WireError, match=f"impressions.parquet: {message}"):
        target.load(impressions=write("impressions", **(history | changed)))
    assert not target.values("impressions") and not list(target.kv.scan(""))


def test_missing_columns_and_unknown_names_are_named(
    target: Any, users: Path, write: Callable[..., Path], tmp_path: Path, history: dict[str, Any]
) -> None:
    with pytest.raises(
        WireError, match=r"must have a column 'uid' \(users\.id of the load's columns\), got \['user_id', 'country', 'age'\]"
    ):
        target.load({"users": {"id": "uid"}}, users=users)
    with pytest.raises(WireError, match=r"must have a column 'price' \(items\.features\.price of the load's columns\)"):
        target.load(items=write("items", item_id=[1], tags=["a"]))
    with pytest.raises(WireError, match=r"users\.features must be features of source 'user', \['country', 'age'\], got \['tags'\]"):
        target.load({"users": {"features": {"tags": "x"}}}, users=users)
    with pytest.raises(
        WireError, match=r"impressions\.features must be features of source user, item, context or candidate, got \['user_id'\]"
    ):
        target.load({"impressions": {"features": {"user_id": "x"}}}, impressions=write("impressions", **history))
    with pytest.raises(ConfigError, match=r"users\.key is not a setting"):
        parse_columns({"users": {"key": "uid"}})
    (tmp_path / "none.parquet").write_bytes(b"nothing")
    with pytest.raises(ArchiveError, match=r"none\.parquet"):
        target.load(users=tmp_path / "none.parquet")
    with pytest.raises(ConfigError, match="a load must have a table"):
        target.load()
