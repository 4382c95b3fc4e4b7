"""The archiver: every record once in a file of its event hour, however often the process dies."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from monolith_py.clock import ManualClock
from monolith_py.config import JobConfig
from monolith_py.errors import ArchiveError, OffsetTrimmed
from monolith_py.io import Record
from monolith_py.io.archive import ArchiveFolder, archived_files, read_records
from monolith_py.observe.metrics import RECORDS_LOST
from monolith_streaming.archive.archiver import Archiver

World = Any


def log_of_some_hours(world: World, partitions: int = 2) -> tuple[JobConfig, Any]:
    """A log of requests over five hours, some clicked, joined."""
    job = world.job(partitions=partitions)
    log = world.log(job)
    for number in range(60):
        name, at_s = f"r{number}", number * 300.0
        world.append(job, log, world.impression(name, at_s, items=range(1, 1 + number % 4 + 1)), partition=number % partitions)
        if number % 3 == 0:
            world.append(job, log, world.action(name, "click", at_s + 20), partition=number % partitions)
    world.join(job, log)
    return job, log


def archive(job: JobConfig, log: Any, folder: ArchiveFolder) -> int:
    archiver = Archiver(job, log, folder, ManualClock())
    return archiver.archive(archiver.ends())


def rows(path: Path, topic: str) -> list[dict[str, Any]]:
    return [row for file in sorted(path.glob(f"topic={topic}/**/*.parquet")) for row in pq.ParquetFile(file).read().to_pylist()]


def places(path: Path, topic: str) -> Counter[tuple[int, int, int]]:
    return Counter((row["log_partition"], row["log_offset"], row.get("log_row", 0)) for row in rows(path, topic))


def expected_places(world: World, job: JobConfig, log: Any, topic: str) -> Counter[tuple[int, int, int]]:
    found: Counter[tuple[int, int, int]] = Counter()
    for partition, records in enumerate(log.records[topic]):
        for offset in range(len(records)):
            num = len(world.batches(job, _only(log, topic, partition, offset), topic)[0]) if topic == "examples" else 1
            found.update((partition, offset, row) for row in range(num))
    return found


def _only(log: Any, topic: str, partition: int, offset: int) -> Any:
    one = type(log)()
    one.records = {topic: [[log.records[topic][partition][offset]]]}
    return one


def test_every_row_is_once_in_a_file_of_its_event_hour(world: World, tmp_path: Path) -> None:
    job, log = log_of_some_hours(world)
    num = archive(job, log, ArchiveFolder(tmp_path))
    assert num == sum(log.end_offset(topic, p) for topic in ("impressions", "actions", "examples") for p in range(2))
    for topic in ("impressions", "actions", "examples"):
        assert places(tmp_path, topic) == expected_places(world, job, log, topic)
        for file in tmp_path.glob(f"topic={topic}/**/*.parquet"):
            day, hour = file.parts[-3].removeprefix("date="), int(file.parts[-2].removeprefix("hour="))
            for time_ms in pq.ParquetFile(file).read()["time_ms"].to_pylist():
                at = pa.scalar(time_ms, pa.timestamp("ms")).as_py()
                assert (f"{at:%Y-%m-%d}", at.hour) == (day, hour)
    assert len(list(tmp_path.glob("topic=impressions/*/*"))) == 6
    assert not rows(tmp_path, "refused")


def test_the_archive_gives_back_the_records_of_the_topic_bit_by_bit(world: World, tmp_path: Path) -> None:
    job, log = log_of_some_hours(world)
    archive(job, log, ArchiveFolder(tmp_path))
    for topic in ("impressions", "actions"):
        files = archived_files(tmp_path, topic, 0, world.now_ms * 2)
        found = sorted((record for file in files for record in read_records(file, topic)), key=lambda one: (one.partition, one.offset))
        assert found == [record for records in log.records[topic] for record in records]
    second_hour = archived_files(tmp_path, "impressions", world.now_ms + 3_600_000, world.now_ms + 3_600_001)
    assert len({file.path.parent for file in second_hour}) == 1


def test_a_later_run_continues_and_a_third_adds_nothing(world: World, tmp_path: Path) -> None:
    job, log = log_of_some_hours(world)
    archive(job, log, ArchiveFolder(tmp_path))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("topic=*/**/*.parquet")}
    world.append(job, log, world.impression("late", 10.0), world.action("late", "click", 11.0))
    assert archive(job, log, ArchiveFolder(tmp_path)) == 2
    assert archive(job, log, ArchiveFolder(tmp_path)) == 0
    assert places(tmp_path, "impressions") == expected_places(world, job, log, "impressions")
    after = {path: path.stat().st_mtime_ns for path in tmp_path.glob("topic=*/**/*.parquet")}
    assert before.items() < after.items() and len(after) == len(before) + 2, "files that are there never change"


class FailingFolder(ArchiveFolder):
    """Burns a fuse before and after every change on the disk."""

    def __init__(self, path: Path, fuse: Any) -> None:
        super().__init__(path)
        self._fuse = fuse

    def _write_table(self, name: str, table: pa.Table) -> None:
        self._fuse.burn()
        super()._write_table(name, table)
        self._fuse.burn()

    def _write(self, name: str, document: Mapping[str, Any]) -> None:
        self._fuse.burn()
        super()._write(name, document)
        self._fuse.burn()

    def _publish(self, staged: str, file: str) -> None:
        self._fuse.burn()
        super()._publish(staged, file)
        self._fuse.burn()


def test_killed_at_any_moment_every_row_is_there_once(world: World, tmp_path: Path) -> None:
    job, log = log_of_some_hours(world, partitions=1)
    whole = world.Fuse(10**9)
    archive(job, log, FailingFolder(tmp_path / "whole", whole))
    assert whole.passed > 60
    for at in range(whole.passed):
        path = tmp_path / f"killed-{at}"
        with pytest.raises(world.Killed):
            archive(job, log, FailingFolder(path, world.Fuse(at)))
        for topic in ("impressions", "actions", "examples"):  # a reader never sees a row twice
            assert max(places(path, topic).values(), default=1) == 1
        world.append(job, log, world.impression(f"more{at}", 10.0))  # another run reads other records
        archive(job, log, ArchiveFolder(path))
        for topic in ("impressions", "actions", "examples"):
            assert places(path, topic) == expected_places(world, job, log, topic), (at, topic)
        assert not list((path / "_archive").glob("*.tmp"))
        log.records["impressions"][0].pop()


def test_a_record_that_no_decoder_takes_is_kept_aside(world: World, tmp_path: Path) -> None:
    job = world.job()
    log = world.log(job)
    log.append("impressions", [b"\xff\xff"], time_ms=world.now_ms)
    log.append("examples", [b"no Arrow"], time_ms=world.now_ms)
    log.append("actions", [b""], time_ms=1 << 62)
    world.append(job, log, world.impression("far", time_ms=1 << 60), world.impression("good"))
    archive(job, log, ArchiveFolder(tmp_path))
    assert [row["request_id"] for row in rows(tmp_path, "impressions")] == ["good"]
    found = {(row["log_topic"], row["log_offset"]): row for row in rows(tmp_path, "refused")}
    assert set(found) == {("impressions", 0), ("impressions", 1), ("examples", 0), ("actions", 0)}
    assert found["impressions", 0]["record"] == b"\xff\xff" and "Impression must be" in found["impressions", 0]["fault"]
    assert "must be before the year 10000" in found["impressions", 1]["fault"]


def test_examples_of_a_job_that_changed_are_in_one_table(world: World, tmp_path: Path) -> None:
    job, log = log_of_some_hours(world, partitions=1)
    settings = job.model_dump()
    wide = job.model_copy(update={"dense_features": (job.dense_features[0].model_copy(update={"dim": 3}),)})
    assert settings["dense_features"][0]["dim"] == 2
    other = world.log(wide)
    columns = world.impression("wide", 1.0).candidates
    candidates = type(columns)(columns.num_rows, columns.sparse, {"age": columns.dense["age"].repeat(2, axis=1)[:, :3]})
    world.append(wide, other, world.impression("wide", 1.0, candidates=candidates))
    world.join(wide, other)
    log.append("examples", [record.value for record in other.read("examples", 0, 0, 10)], time_ms=world.now_ms)
    archive(job, log, ArchiveFolder(tmp_path))
    assert {len(row["d_age"]) for row in rows(tmp_path, "examples")} == {2, 3}


def test_records_that_were_deleted_are_counted_and_passed_over(world: World, tmp_path: Path) -> None:
    job, log = log_of_some_hours(world, partitions=1)
    archive(job, log, ArchiveFolder(tmp_path))
    start = log.end_offset("impressions")

    class Trimmed(world.MemoryLog):  # type: ignore[misc]
        def read(self, topic: str, partition: int, offset: int, *arguments: Any, **named: Any) -> list[Record]:
            if topic == "impressions" and offset < start + 2:
                raise OffsetTrimmed(topic, partition, offset, start + 2)
            found: list[Record] = super().read(topic, partition, offset, *arguments, **named)
            return found

    for number in range(5):
        world.append(job, log, world.impression(f"new{number}", 10.0))
    trimmed = Trimmed()
    trimmed.records = log.records
    lost = RECORDS_LOST.labels(topic="impressions")._value.get()
    archive(job, trimmed, ArchiveFolder(tmp_path))
    assert RECORDS_LOST.labels(topic="impressions")._value.get() - lost == 2
    assert [row["request_id"] for row in rows(tmp_path, "impressions")][-1] == "r59"
    assert {row["request_id"] for row in rows(tmp_path, "impressions")} >= {"new2", "new3", "new4"}
    assert len(rows(tmp_path, "impressions")) == 63


def test_following_commits_after_the_interval_and_at_the_stop(world: World, tmp_path: Path) -> None:
    job, log = log_of_some_hours(world, partitions=1)
    clock = ManualClock()
    archiver = Archiver(job, log, ArchiveFolder(tmp_path), clock, interval_s=10.0)
    seen: list[int] = []

    def stop() -> bool:
        seen.append(len(rows(tmp_path, "impressions")))
        if len(seen) == 30:
            world.append(job, log, world.impression("last", 10.0))
        return len(seen) > 32

    archiver.follow(stop)
    assert seen[:15] == [0] * 15 and seen[29] == 60, "a file of many records, not one for each read"
    assert len(rows(tmp_path, "impressions")) == 61


def test_a_partition_that_is_added_while_it_follows_is_archived(world: World, tmp_path: Path) -> None:
    job, log = log_of_some_hours(world, partitions=1)
    archiver = Archiver(job, log, ArchiveFolder(tmp_path), ManualClock(), interval_s=1.0)
    passes = iter(range(9))

    def stop() -> bool:
        number = next(passes)
        if number == 3:
            log.records["impressions"].append([])
            world.append(job, log, world.impression("new", 10.0), partition=1)
        return number == 8

    archiver.follow(stop)
    assert places(tmp_path, "impressions") == expected_places(world, job, log, "impressions")


@pytest.mark.parametrize("change", [{"name": "other"}, {"log": "other."}])
def test_an_archive_of_another_job_is_refused(world: World, tmp_path: Path, change: dict[str, str]) -> None:
    job, log = log_of_some_hours(world)
    archive(job, log, ArchiveFolder(tmp_path))
    if "log" in change:
        other = job.model_copy(update={"log": job.log.model_copy(update={"topic_prefix": change["log"]})})
        world.create_topics(log, other)
    else:
        other = job.model_copy(update=change)
    with pytest.raises(ArchiveError, match="an archive must be of one job and its topics"):
        archive(other, log, ArchiveFolder(tmp_path))


def test_damage_of_the_state_is_an_error(world: World, tmp_path: Path) -> None:
    job, log = log_of_some_hours(world)
    archive(job, log, ArchiveFolder(tmp_path))
    state = tmp_path / "_archive" / "impressions-00000.json"
    state.write_text(json.dumps({"next": 3, "files": {"impressions-gone.tmp": "topic=impressions/gone.parquet"}}))
    with pytest.raises(ArchiveError, match="a file of a commit must be there"):
        archive(job, log, ArchiveFolder(tmp_path))
    for content in ("{", "[]", "{}"):
        state.write_text(content)
        with pytest.raises(ArchiveError, match=r"impressions-00000\.json"):
            archive(job, log, ArchiveFolder(tmp_path))
    assert (tmp_path / "topic=impressions" / "date=2023-11-14" / "hour=22").is_dir()
    (tmp_path / "topic=impressions" / "date=2023-11-14" / "hour=22" / "x.parquet").write_bytes(b"")
    with pytest.raises(ArchiveError, match=r"must be named PARTITION-START-STOP\.parquet, got 'x\.parquet'"):
        archived_files(tmp_path, "impressions", 0, world.now_ms * 2)
    (tmp_path / "topic=impressions" / "date=2023-11-14" / "hour=x").mkdir()
    with pytest.raises(ArchiveError, match="must be named date=YYYY-MM-DD/hour=H"):
        archived_files(tmp_path, "impressions", 0, world.now_ms * 2)


def sum_by_duckdb(path: Path) -> Callable[[str], list[tuple[Any, ...]]]:
    duckdb = pytest.importorskip("duckdb", reason="NO DUCKDB, so nothing is known about reading the archive with it")
    connection = duckdb.connect()
    return lambda query: connection.sql(query.replace("ARCHIVE", str(path))).fetchall()


def test_duckdb_reads_the_archive_as_it_is(world: World, tmp_path: Path) -> None:
    job, log = log_of_some_hours(world)
    archive(job, log, ArchiveFolder(tmp_path))
    sql = sum_by_duckdb(tmp_path)
    every = "read_parquet('ARCHIVE/topic=examples/**/*.parquet', hive_partitioning = true, union_by_name = true)"
    online = world.examples(job, log)
    ((num, clicks, ages),) = sql(f"select count(*), sum(label_is_click), sum(d_age[1]) from {every} where kind = 0")
    labelled = [row for row in online.elements() if row[2] == 0]
    assert (num, clicks) == (len(labelled), sum(row[3][0] for row in labelled))
    assert ages == sum(dict(row[6])["age"][0] for row in labelled)
    by_hour = sql(f"select date, hour, count(*) from {every} group by all order by all")
    hours = [("2023-11-14", 22), ("2023-11-14", 23), *(("2023-11-15", hour) for hour in range(4))]
    assert [(str(date), hour) for date, hour, _ in by_hour] == hours
    joined = sql(
        "select count(*) from read_parquet('ARCHIVE/topic=impressions/**/*.parquet') i "
        "join read_parquet('ARCHIVE/topic=actions/**/*.parquet') a using (request_id) where list_contains(i.item_ids, a.item_id)"
    )
    assert joined == [(20,)]


def test_pyarrow_reads_the_archive_as_it_is(world: World, tmp_path: Path) -> None:
    dataset = pytest.importorskip("pyarrow.dataset")
    job, log = log_of_some_hours(world)
    archive(job, log, ArchiveFolder(tmp_path))
    found = dataset.dataset(tmp_path / "topic=examples", partitioning="hive")
    assert found.count_rows() == sum(world.examples(job, log).values())
    hour = found.to_table(filter=(dataset.field("date") == "2023-11-15") & (dataset.field("hour") == 2))
    assert 0 < hour.num_rows < found.count_rows()
