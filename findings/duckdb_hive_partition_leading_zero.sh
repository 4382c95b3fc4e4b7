#!/usr/bin/env bash
# duckdb 2.0.1: one hive folder with a leading zero (hour=09) turns the whole partition column from BIGINT into VARCHAR.
#
# read_parquet(..., hive_partitioning = true) infers the type of a partition column from the names of the folders that are there. Folders
# hour=13 and hour=14, as Spark, Flink or a cron job write them in the afternoon, give a BIGINT, and `hour < 12` counts. The first folder
# hour=09 of the next day makes the column a VARCHAR: the same query is then a Binder Error (`hour < 12`, `between`, arithmetic), `hour = 9`
# still works by a cast of the texts, `hour = '9'` finds nothing. So a query or view breaks by data that arrive, not by a change of
# anything. pyarrow.dataset reads int32 from both folders, so files that one tool partitions well are read differently by the other. It
# matters for any archive by hour, day or month with two digits. Folders without leading zeros (hour=9), or hive_types = {'hour': 'BIGINT'}
# in every query, are BIGINT always.
#
# Output seen, 2026-11-30:
#   hours 13, 14: BIGINT, hour < 12: 0, pyarrow int32
#   hours 09, 13: VARCHAR, hour < 12: BinderException, hour = 9: 1, hour = '9': 0, pyarrow int32
#   hours 9, 13: BIGINT, hour < 12: 1
#
# Exit status 0 while the behaviour is as described, else non-zero.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip --disable-pip-version-check install -q duckdb==2.0.1 pyarrow==25.0.1
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq


def folder(*hours: str) -> str:
    """Write one row into each hour's folder."""
    name = "-".join(hours)
    for hour in hours:
        Path(f"{name}/hour={hour}").mkdir(parents=True)
        pq.write_table(pa.table({"x": [int(hour)]}), f"{name}/hour={hour}/rows.parquet")
    return name


def ask(name: str, query: str) -> object:
    """Return the one value of a query, or the name of its error."""
    table = f"read_parquet('{name}/*/*.parquet', hive_partitioning = true)"
    try:
        ((value,),) = duckdb.sql(query.replace("FOLDER", table)).fetchall()
    except duckdb.Error as error:
        return type(error).__name__
    return value


TYPE, MORNING = "select distinct typeof(hour) from FOLDER", "select count(*) from FOLDER where hour < 12"
afternoon, zero, plain = folder("13", "14"), folder("09", "13"), folder("9", "13")
numbers = [ask(zero, f"select count(*) from FOLDER where hour = {value}") for value in ("9", "'9'")]
arrow = [str(ds.dataset(name, partitioning="hive").schema.field("hour").type) for name in (afternoon, zero)]
print(f"hours 13, 14: {ask(afternoon, TYPE)}, hour < 12: {ask(afternoon, MORNING)}, pyarrow {arrow[0]}")
print(f"hours 09, 13: {ask(zero, TYPE)}, hour < 12: {ask(zero, MORNING)}, hour = 9: {numbers[0]}, hour = '9': {numbers[1]}, pyarrow {arrow[1]}")
print(f"hours 9, 13: {ask(plain, TYPE)}, hour < 12: {ask(plain, MORNING)}")
assert (ask(afternoon, TYPE), ask(afternoon, MORNING)) == ("BIGINT", 0)
assert (ask(zero, TYPE), ask(zero, MORNING), numbers) == ("VARCHAR", "BinderException", [1, 0])
assert (ask(plain, TYPE), ask(plain, MORNING)) == ("BIGINT", 1)
assert arrow == ["int32", "int32"]
PYTHON
