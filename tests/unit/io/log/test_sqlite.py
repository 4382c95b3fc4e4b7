"""Failures of the SQLite log: locked, full and damaged files, leftovers of a killed process."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from monolith_py.errors import LogError, OffsetTrimmed, TopicMissing
from monolith_py.io import SqliteLog
from monolith_py.io.log.value_files import FILE_BYTES
from monolith_py.io.sqlite_file import connect, mapped_errors, transaction

SIZE = 100_000  # of a value that lies beside the database
FILL = """
import resource
import sys
from monolith_py.errors import LogError
from monolith_py.io import SqliteLog

log = SqliteLog(sys.argv[1])
size, most = int(sys.argv[2]), int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
acknowledged = 0
try:
    while True:
        acknowledged = log.append("actions", [b"%d" % acknowledged + b" " * size], time_ms=1)
except LogError as error:
    print(acknowledged, error)
"""


@pytest.fixture
def log(tmp_path: Path) -> Iterator[SqliteLog]:
    with closing(SqliteLog(tmp_path / "log", busy_timeout_s=0.05)) as log:
        log.create_topic("actions", 2)
        yield log


def test_a_partition_locked_by_another_process_refuses_appends_but_is_read(tmp_path: Path, log: SqliteLog) -> None:
    log.append("actions", [b"a"], time_ms=1)
    with closing(connect(tmp_path / "log/actions/00000.db", create=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LogError, match=r"00000\.db: database is locked"):
            log.append("actions", [b"b"], time_ms=1)
        assert [record.value for record in log.read("actions", 0, 0, 10)] == [b"a"]
        assert log.append("actions", [b"c"], time_ms=1, partition=1) == 1
        other.execute("ROLLBACK")
    assert log.append("actions", [b"b"], time_ms=1) == 2


@pytest.mark.parametrize(("size", "most"), [(10_000, 1 << 20), (SIZE, 20 * SIZE)])
def test_a_full_disk_is_an_error_that_loses_nothing(tmp_path: Path, log: SqliteLog, size: int, most: int) -> None:
    command = [sys.executable, "-c", FILL, str(tmp_path / "log"), str(size), str(most)]
    filler = subprocess.run(command, capture_output=True, text=True, check=True)
    count, _, message = filler.stdout.partition(" ")
    acknowledged = int(count)
    assert "00000.db" in message and acknowledged > 10
    found = [record.value for record in log.read("actions", 0, 0, 1_000)]
    assert found == [b"%d" % number + b" " * size for number in range(acknowledged)]
    assert log.append("actions", [b"next" + bytes(size)], time_ms=1) == acknowledged + 1
    assert log.read("actions", 0, acknowledged, 1)[0].value == b"next" + bytes(size)


@pytest.mark.parametrize("padding", [b"", bytes(SIZE // 100)], ids=["small", "beside the database"])
def test_an_append_that_fails_midway_leaves_nothing_behind(log: SqliteLog, padding: bytes) -> None:
    values = [[letter + padding] * 100 for letter in (b"a", b"b", b"c")]
    log.append("actions", values[0], time_ms=1)
    with pytest.raises(OverflowError):  # SQLite's integers have 64 bits
        log.append("actions", values[1], time_ms=[2] * 99 + [1 << 63])
    assert [record.value for record in log.read("actions", 0, 0, 1_000)] == values[0]
    assert log.append("actions", values[2], time_ms=1) == 200
    assert [record.value for record in log.read("actions", 0, 0, 1_000)] == values[0] + values[2]
    assert log.offset_at("actions", 0, 2) == 200


def test_large_and_small_appends_of_several_processes_keep_their_order(tmp_path: Path, log: SqliteLog) -> None:
    with closing(SqliteLog(tmp_path / "log")) as other:
        expected = []
        for turn in range(40):
            values = [b"%d,%d" % (turn, index) + bytes(SIZE // 7 if turn % 3 else index) for index in range(1 + turn % 9)]
            (log, other)[turn % 2].append("actions", values, time_ms=turn + 1)
            expected += values
            read = [record.value for record in (other, log)[turn % 2].read("actions", 0, 0, 1_000)]
            assert read == expected
    with closing(SqliteLog(tmp_path / "log")) as again:
        assert [record.value for record in again.read("actions", 0, 5, 30)] == expected[5:35]


def test_a_trim_deletes_value_files_and_no_record_after_it(tmp_path: Path, log: SqliteLog) -> None:
    value = bytes(FILE_BYTES // 4)
    for turn in range(10):
        log.append("actions", [b"%d" % turn + value], time_ms=turn)
    full = log.num_bytes("actions")
    log.trim("actions", 0, 7)
    assert full - log.num_bytes("actions") > 0.9 * FILE_BYTES
    assert [record.value[:1] for record in log.read("actions", 0, 7, 10)] == [b"7", b"8"]  # as far as one read goes
    with pytest.raises(OffsetTrimmed):
        log.read("actions", 0, 3, 10)
    log.trim("actions", 0, 10)
    assert log.append("actions", [value], time_ms=1) == 11
    assert log.read("actions", 0, 10, 1)[0].value == value


@pytest.mark.parametrize("keep", [None, 10])
def test_a_value_file_that_is_gone_or_cut_is_an_error(tmp_path: Path, log: SqliteLog, keep: int | None) -> None:
    log.append("actions", [bytes(SIZE)], time_ms=1)
    (path,) = (tmp_path / "log/actions").glob("00000.*.values")
    path.unlink() if keep is None else os.truncate(path, keep)
    with pytest.raises(LogError, match=r"00000\.db: every record must have its value"):
        log.read("actions", 0, 0, 10)
    with closing(SqliteLog(tmp_path / "log")) as again, pytest.raises(LogError, match=r"00000\.db: every record must have its value"):
        again.append("actions", [bytes(SIZE)], time_ms=1)  # what is missing would read as zeros
    assert log.end_offset("actions") == 1


def test_a_value_that_takes_several_reads_is_whole(log: SqliteLog, monkeypatch: pytest.MonkeyPatch) -> None:
    value = bytes(range(250)) * (SIZE // 250)
    log.append("actions", [value, b"b"], time_ms=1)
    read = os.pread  # which brings no more than 2 GiB less 4 KiB at once
    monkeypatch.setattr(os, "pread", lambda descriptor, size, place: read(descriptor, min(size, SIZE // 3), place))
    assert [record.value for record in log.read("actions", 0, 0, 10)] == [value, b"b"]


def test_a_damaged_partition_is_an_error_naming_the_file(tmp_path: Path, log: SqliteLog) -> None:
    (tmp_path / "log/actions/00001.db").write_bytes(b"no database at all" * 1_000)
    with pytest.raises(LogError, match=r"00001\.db: file is not a database"):
        log.append("actions", [b"a"], time_ms=1, partition=1)


def test_a_partition_whose_file_is_gone_is_not_made_anew(tmp_path: Path, log: SqliteLog) -> None:
    assert log.num_partitions("actions") == 2
    (tmp_path / "log/actions/00001.db").unlink()
    with pytest.raises(LogError, match=r"00001\.db: unable to open database file"):
        log.append("actions", [b"a"], time_ms=1, partition=1)


def test_a_topic_half_made_by_a_killed_process_is_no_topic(tmp_path: Path, log: SqliteLog) -> None:
    (tmp_path / "log" / "~0123").mkdir()
    (tmp_path / "log" / "~0123" / "00000.db").touch()
    with pytest.raises(TopicMissing):
        log.num_partitions("~0123")


def test_a_trim_that_was_interrupted_is_finished_by_the_next(tmp_path: Path, log: SqliteLog) -> None:
    log.append("actions", [b"%d" % number for number in range(10)], time_ms=1)
    with closing(connect(tmp_path / "log/actions/00000.db", create=False)) as other, transaction(other):
        other.execute("UPDATE bounds SET start_offset = 7")
    assert log.start_offset("actions") == 7
    log.trim("actions", 0, 2)
    with closing(connect(tmp_path / "log/actions/00000.db", create=False)) as other:
        assert other.execute("SELECT min(offset), count(*) FROM record").fetchone() == (7, 3)


def test_trimmed_pages_are_used_again(tmp_path: Path, log: SqliteLog) -> None:
    path = tmp_path / "log/actions/00000.db"
    for turn in range(6):
        end = [log.append("actions", [bytes(10_000)] * 5, time_ms=turn) for _ in range(40)][-1]
        log.trim("actions", 0, end)
    log.close()
    assert path.stat().st_size < 2 * 200 * 10_000


def test_every_error_of_sqlite_is_mapped_except_warnings() -> None:
    errors = {one for one in vars(sqlite3).values() if isinstance(one, type) and issubclass(one, Exception)}
    unmapped = set()
    for error in errors:
        try:
            with mapped_errors(LogError, Path("x.db")):
                raise error("cause")
        except LogError:
            pass
        except Exception as other:
            unmapped.add(type(other).__name__)
    # sqlite3.Warning is raised for two statements in one execute: a mistake of ours.
    assert unmapped == {"Warning"}
