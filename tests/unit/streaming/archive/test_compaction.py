"""Compaction of an archive: fewer files, the same rows, and a reader sees each once at any moment."""

from __future__ import annotations

import shutil
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from monolith_py.clock import ManualClock
from monolith_py.config import JobConfig
from monolith_py.io.archive import ArchiveFolder, archived_files, compact, read_records
from monolith_streaming.archive.archiver import Archiver

World = Any
Row = tuple[str, int, int]
NUM_RUNS = 4


def archive(job: JobConfig, log: Any, path: Path, clock: ManualClock, *, compacts: bool = False) -> int:
    archiver = Archiver(job, log, ArchiveFolder(path), clock, compacts=compacts)
    return archiver.archive(archiver.ends())


def more(world: World, job: JobConfig, log: Any, run: int) -> None:
    """Append requests of three hours to both partitions, some clicked."""
    for number in range(12):
        name, at_s = f"r{run}-{number}", number * 900.0
        events = [world.impression(name, at_s)] + ([world.action(name, "click", at_s + 20)] if number % 3 == 0 else [])
        world.append(job, log, *events, partition=number % 2)


@pytest.fixture
def clock(world: World) -> ManualClock:
    return ManualClock(world.now_ms + 10 * 86_400_000)


@pytest.fixture
def many(world: World, tmp_path: Path, clock: ManualClock) -> tuple[JobConfig, Any, Path]:
    """A job, its log, and its archive of several files an hour."""
    job = world.job(partitions=2)
    log = world.log(job)
    for run in range(NUM_RUNS):
        more(world, job, log, run)
        archive(job, log, tmp_path, clock)
    return job, log, tmp_path


def files(path: Path) -> dict[tuple[Path, str], int]:
    """Return the number of files of each hour and partition."""
    return dict(Counter((file.parent, file.name.partition("-")[0]) for file in path.glob("topic=*/**/*.parquet")))


def rows(path: Path) -> Counter[Row]:
    """Read as a reader of a glob does."""
    found: Counter[Row] = Counter()
    for file in sorted(path.glob("topic=*/**/*.parquet")):
        table = pq.ParquetFile(file).read(["log_partition", "log_offset"])
        topic = next(part for part in file.parts if part.startswith("topic="))
        found.update((topic, *row) for row in zip(*(column.to_pylist() for column in table.columns), strict=True))
    return found


def test_old_hours_get_one_file_a_partition_with_the_same_rows(world: World, many: tuple[JobConfig, Any, Path], clock: ManualClock) -> None:
    job, log, path = many
    before, num_before = rows(path), files(path)
    assert set(num_before.values()) == {NUM_RUNS}
    assert archive(job, log, path, clock, compacts=True) == 0
    assert files(path) == dict.fromkeys(num_before, 1)
    assert rows(path) == before and set(before.values()) == {1}
    old = path / "_archive" / "compacted"
    assert len(list(old.glob("*/*.parquet"))) == sum(num_before.values()), "for readers that have listed them"
    for topic in ("impressions", "actions"):
        found = [record for file in archived_files(path, topic, 0, world.now_ms * 2) for record in read_records(file, topic)]
        assert sorted(found, key=lambda one: (one.partition, one.offset)) == [one for part in log.records[topic] for one in part]
    assert compact(path, clock.now_ms(), 0.0) == (0, 0), "nothing is left to do"
    assert not old.exists()


def test_a_late_record_makes_another_file_until_the_next_compaction(
    world: World, many: tuple[JobConfig, Any, Path], clock: ManualClock
) -> None:
    job, log, path = many
    archive(job, log, path, clock, compacts=True)
    more(world, job, log, NUM_RUNS)
    assert archive(job, log, path, clock) == 16
    whole = rows(path)
    assert set(files(path).values()) == {2} and set(whole.values()) == {1}
    archive(job, log, path, clock, compacts=True)
    assert set(files(path).values()) == {1} and rows(path) == whole


def test_young_hours_and_hours_with_other_files_stay(
    world: World, many: tuple[JobConfig, Any, Path], clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    _, _, path = many
    first_hour = world.now_ms // 3_600_000
    foreign = next(hour for hour, _ in sorted(files(path)) if "impressions" in str(hour))
    (foreign / "_SUCCESS").touch()
    compact(path, (first_hour + 2) * 3_600_000 + 7_199_999, 7_200.0)  # the second hour is a millisecond too young
    assert "has other files: _SUCCESS" in caplog.text
    hours = {hour: num for (hour, _), num in files(path).items()}
    assert hours.pop(foreign) == NUM_RUNS
    old = {hour for hour, num in hours.items() if num == 1}
    assert {(hour.parent.parent.name, hour.name) for hour in old} == {("topic=actions", foreign.name)}
    assert {num for hour, num in hours.items() if hour not in old} == {NUM_RUNS}


def test_what_a_dead_compaction_left_is_deleted_whenever_it_died(many: tuple[JobConfig, Any, Path], clock: ManualClock) -> None:
    _, _, path = many
    whole, hour = rows(path), sorted(files(path))[0][0]
    staged = path / "_archive" / "compact.tmp"
    staged.mkdir()
    (staged / "00000-000000000000-000000000008.parquet").write_bytes(b"half of a file")  # died in step 1
    compact(path, clock.now_ms(), 0.0)
    assert rows(path) == whole and not staged.exists()
    shutil.copytree(hour, staged)  # died between steps 2 and 3
    assert compact(path, clock.now_ms(), 0.0) == (0, 0)
    assert rows(path) == whole and not staged.exists()


def test_a_column_that_some_files_lack_is_null_in_their_rows(tmp_path: Path, clock: ManualClock) -> None:
    """A feature was added to the job between two commits."""
    folder = ArchiveFolder(tmp_path)
    folder.open("shop", {"examples": "examples"})
    columns = {"log_partition": pa.array([0], pa.int32()), "log_row": pa.array([0], pa.int32())}
    for offset, feature in ((0, "s_old"), (1, "s_new")):
        table = pa.table(columns | {"log_offset": pa.array([offset]), feature: pa.array([[offset + 5]])})
        folder.commit("examples", 0, offset, offset + 1, {("examples", 3): table})
    assert compact(tmp_path, clock.now_ms(), 0.0) == (2, 1)
    (file,) = tmp_path.glob("topic=examples/**/*.parquet")
    found = pq.ParquetFile(file).read().to_pylist()
    assert [(row["log_offset"], row["s_old"], row["s_new"]) for row in found] == [(0, [5], None), (1, None, [6])]


def test_a_reader_never_sees_a_row_twice_or_misses_one(world: World, many: tuple[JobConfig, Any, Path], clock: ManualClock) -> None:
    """It may get an error for a file that is gone, and reads again."""
    job, log, path = many
    whole, stop = rows(path), threading.Event()
    seen: list[Counter[Row]] = []

    def read() -> None:
        while not stop.is_set():
            try:
                seen.append(rows(path))
            except OSError:
                continue

    reader = threading.Thread(target=read)
    reader.start()
    for run in range(3):
        compact(path, clock.now_ms(), 0.0)
        more(world, job, log, 10 + run)
        archive(job, log, path, clock)
    stop.set()
    reader.join()
    seen.append(rows(path))
    assert all(set(one.values()) == {1} and whole.keys() <= one.keys() for one in seen)


def test_an_hour_that_cannot_be_merged_does_not_stop_the_others(
    world: World, many: tuple[JobConfig, Any, Path], clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    job, log, path = many
    before = files(path)
    bad = sorted(path.glob("topic=impressions/*/*/*.parquet"))[0]
    bad.write_bytes(b"no Parquet")
    assert archive(job, log, path, clock, compacts=True) == 0
    first = [hour for hour in before if hour[0] == bad.parent]
    assert files(path) == {hour: NUM_RUNS if hour in first else 1 for hour in before}
    assert any(f"{bad.parent} is not compacted" in line for line in caplog.messages)
    assert not (path / "_archive" / "compact.tmp").exists()
