"""Replay of an archive, of offsets and of other topics, into topics and Parquet files: the same examples."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from monolith_py.clock import ManualClock, SystemClock
from monolith_py.config import JobConfig
from monolith_py.errors import ArchiveError, ConfigError
from monolith_py.io.archive import ArchiveFolder, archived_files
from monolith_py.io.codec import decode_examples
from monolith_streaming.archive.archiver import Archiver
from monolith_streaming.replay import folder_output
from monolith_streaming.replay.beam import ReplayOptions, ReplayResult, run_replay
from monolith_streaming.replay.folder_output import FolderOutput
from monolith_streaming.replay.output import Step, ends_replay
from monolith_streaming.replay.source import Range, Shard

World = Any
NUM_REQUESTS, BETWEEN_S = 120, 100.0  # of the fixture `stream`
SHARD_MS = 2_500_000


def replay(world: World, job: JobConfig, start_s: float = 0, end_s: float = NUM_REQUESTS * BETWEEN_S, **options: Any) -> ReplayResult:
    output = options.pop("output", None)
    times_ms = {"start_ms": world.now_ms + round(start_s * 1000), "end_ms": world.now_ms + round(end_s * 1000)}
    return run_replay(job, **times_ms, output=output, options=ReplayOptions(**options))


def rows_of(folder: Path) -> Counter[Any]:
    """Examples of the files: request, item, kind, labels, time, fids of tags, values of age."""
    rows = [row for file in folder.glob("topic=examples/*/*/*.parquet") for row in pq.ParquetFile(file).read().to_pylist()]
    return Counter(
        (
            row["request_id"],
            row["item_id"],
            row["kind"],
            (row["label_is_click"], row["label_is_like"]),
            row["time_ms"],
            tuple(row["s_tags"]),
            tuple(row["d_age"]),
        )
        for row in rows
    )


def rows_in(world: World, job: JobConfig, log: Any, topic: str) -> Counter[Any]:
    found: Counter[Any] = Counter()
    for row, number in world.examples(job, log, topic).items():
        request, item, kind, labels, _, time_ms, features = row
        found[request, item, kind, labels, time_ms, dict(features)["tags"], dict(features)["age"]] += number
    return found


def test_a_replay_of_the_archive_gives_the_examples_of_the_topics(world: World, stream: Any) -> None:
    job, log, archive = stream
    of_log = replay(world, job)
    of_archive = replay(world, job, archive=archive, output="from-archive")
    assert world.examples(job, log, "from-archive") == world.examples(job, log, of_log.topic) == world.examples(job, log)
    assert (of_log.requests, of_archive.requests, of_log.malformed, of_archive.malformed) == (NUM_REQUESTS, NUM_REQUESTS, 1, 0)
    assert of_archive.retraction == of_log.retraction > 10
    for partition in range(2):  # record by record, too
        values = [[record.value for record in log.read(topic, partition, 0, 10_000)] for topic in ("from-archive", of_log.topic)]
        assert values[0] == values[1]


def test_a_compacted_archive_with_events_between_hours_gives_the_examples_of_the_topics(world: World, stream: Any, tmp_path: Path) -> None:
    job, log, _ = stream
    clock = ManualClock(world.now_ms + 10 * 86_400_000)
    for part in (0.3, 0.6, 1.0):
        archiver = Archiver(job, log, ArchiveFolder(tmp_path), clock, compacts=part == 1.0)
        archiver.archive({place: round(end * part) for place, end in archiver.ends().items()})
    ranges = [(file.start, file.stop) for file in archived_files(tmp_path, "actions", 0, world.now_ms * 2) if file.partition == 0]
    assert any(start < before for (_, before), (start, _) in pairwise(sorted(ranges))), "actions of one hour lie between those of another"
    of_log = replay(world, job, output="log-to-compare")
    replay(world, job, archive=tmp_path, output="from-compacted")
    for partition in range(2):
        values = [[record.value for record in log.read(topic, partition, 0, 10_000)] for topic in ("from-compacted", of_log.topic)]
        assert values[0] == values[1]
    replay(world, job, 3000, 7000, archive=tmp_path, output="part-of-compacted", shard_ms=1_000_000)
    bounds = range(world.now_ms + 3_000_000, world.now_ms + 7_000_000)
    whole = world.examples(job, log)
    assert world.examples(job, log, "part-of-compacted") == Counter({row: number for row, number in whole.items() if row[5] in bounds})


def test_the_last_record_says_that_the_replay_has_ended_and_has_no_examples(world: World, stream: Any) -> None:
    job, log, _ = stream
    for _ in range(2):
        replay(world, job, output="ended")
        ends = [ends_replay(record.value) for record in log.read("ended", 0, 0, 10_000)]
        assert ends[-1] and sum(ends) == 1
        assert not any(ends_replay(record.value) for record in log.read("ended", 1, 0, 10_000))
    assert not ends_replay(b"no Arrow")


def test_a_part_of_the_archive_gives_its_part(world: World, stream: Any) -> None:
    job, log, archive = stream
    replay(world, job, 3000, 7000, archive=archive, output="part-of-archive")
    whole = world.examples(job, log)
    bounds = range(world.now_ms + 3_000_000, world.now_ms + 7_000_000)
    assert world.examples(job, log, "part-of-archive") == Counter({row: number for row, number in whole.items() if row[5] in bounds})


def test_a_replay_into_parquet_files_has_the_same_examples_however_often_it_runs(world: World, stream: Any, tmp_path: Path) -> None:
    job, log, archive = stream
    first = replay(world, job, folder=tmp_path)
    assert rows_of(tmp_path) == rows_in(world, job, log, "examples")
    assert first.topic == str(tmp_path) and len(list(tmp_path.glob("topic=examples/*/*"))) == 4
    replay(world, job, folder=tmp_path)
    assert rows_of(tmp_path) == rows_in(world, job, log, "examples")
    assert not list(tmp_path.glob("_archive/*.tmp"))
    # From archive to files no log is opened.
    away = job.model_copy(update={"log": job.log.model_copy(update={"url": "kafka://127.0.0.1:1"})})
    replay(world, away, archive=archive, folder=tmp_path / "other")
    assert rows_of(tmp_path / "other") == rows_of(tmp_path)


def test_the_archive_of_a_log_is_no_output(world: World, stream: Any) -> None:
    job, _, archive = stream
    before = rows_of(archive)
    with pytest.raises(ConfigError, match="must be no archive of a log"):
        replay(world, job, archive=archive, folder=archive)
    assert rows_of(archive) == before


def test_files_of_other_rules_are_refused(world: World, stream: Any, tmp_path: Path) -> None:
    job, _, _ = stream
    replay(world, job, 0, 100, folder=tmp_path)
    other = job.model_copy(update={"joiner": job.joiner.model_copy(update={"window_s": 5.0})})
    with pytest.raises(ConfigError, match=r"must have no replay of \d+-\d+ by other rules"):
        replay(world, other, 0, 100, folder=tmp_path)
    (marker,) = tmp_path.glob("_archive/replay-*.json")
    marker.write_text("[]")
    with pytest.raises(ArchiveError, match=r"replay-\d+-\d+\.json"):
        replay(world, job, 0, 100, folder=tmp_path)


def test_offsets_choose_impressions_with_all_their_actions(world: World, stream: Any) -> None:
    job, log, _ = stream
    result = run_replay(job, options=ReplayOptions(offsets={0: (10, 20), 1: (0, 3)}))
    assert result.topic == "examples-replay-offsets-0.10.20-1.0.3"
    chosen = {f"r{2 * offset}" for offset in range(10, 20)} | {"r1", "r3", "r5"}
    expected = Counter({row: number for row, number in world.examples(job, log).items() if row[0] in chosen})
    assert world.examples(job, log, result.topic) == expected


def test_ranges_of_many_partitions_have_a_name_of_bounded_length() -> None:
    names = [Range(0, 1, dict.fromkeys(range(64), (0, stop))).name for stop in (10**9, 10**9 + 1)]
    assert len(set(names)) == 2 and all(len(name) == 40 for name in names)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"offsets": {2: (0, 1)}}, "must be PARTITION:START-STOP within 2 partitions, got 2:0-1"),
        ({"offsets": {0: (1, 1)}}, "must be PARTITION:START-STOP within 2 partitions, got 0:1-1"),
        ({"offsets": {0: (9000, 9001)}}, "replay offsets must hold impressions of 'impressions', got none"),
        ({"prefix": "x", "archive": Path("unused")}, "replay must read an archive by time, got offsets or a prefix"),
        ({"folder": Path("unused"), "output": "topic"}, "replay must have one output, got topic 'topic' and folder 'unused'"),
    ],
)
def test_options_that_contradict_each_other_are_refused(world: World, stream: Any, options: dict[str, Any], message: str) -> None:
    job, _, _ = stream
    with pytest.raises(ConfigError, match=message):
        replay(world, job, **options)


def test_a_folder_that_is_no_archive_is_refused(world: World, stream: Any, tmp_path: Path) -> None:
    job, _, _ = stream
    with pytest.raises(ArchiveError, match="must be an archive with a folder _archive, got none"):
        replay(world, job, archive=tmp_path)


def test_topics_of_another_prefix_are_replayed_by_the_rules_of_the_job(world: World, stream: Any) -> None:
    job, log, _ = stream
    history = job.model_copy(update={"log": job.log.model_copy(update={"topic_prefix": "history."})})
    world.create_topics(log, history)
    world.append(history, log, world.impression("h1", 1.0), world.action("h1", "click", 2.0))
    result = replay(world, job, prefix="history.", output="of-history")
    assert (result.requests, result.labelled) == (1, 1)
    assert [row[0] for row in world.examples(job, log, "of-history")] == ["h1"]


def test_a_replay_of_a_range_with_open_windows_warns(world: World, stream: Any, caplog: pytest.LogCaptureFixture) -> None:
    job, _, _ = stream
    run_replay(job, start_ms=1, end_ms=SystemClock().now_ms(), output="too-early")
    assert any("actions of the range may still come for" in line for line in caplog.messages)


def test_a_partition_with_more_records_than_the_replay_is_refused(world: World, stream: Any) -> None:
    job, log, _ = stream
    replay(world, job, 100, 900, output="longer")
    records = log.read("longer", 1, 0, 1)
    log.append("longer", [records[0].value], time_ms=1, partition=1)
    with pytest.raises(ConfigError, match=r"replay output 'longer'\[1\] must have no other replay of this range"):
        replay(world, job, 100, 900, output="longer")


def test_shards_add_up_to_the_online_joiner_s_examples_and_counts(world: World, stream: Any) -> None:
    job, log, _ = stream
    whole = replay(world, job, output="one-shard")
    parts = replay(world, job, output="five-shards", shard_ms=SHARD_MS)
    assert world.examples(job, log, "five-shards") == world.examples(job, log)
    assert vars(parts) == {**vars(whole), "topic": "five-shards", "records_written": parts.records_written}


def test_an_interrupted_replay_joins_only_the_shards_that_are_not_whole(world: World, stream: Any) -> None:
    job, log, _ = stream
    replay(world, job, output="all-shards", shard_ms=SHARD_MS)
    log.create_topic("some-shards", 2)
    records = [[record.value for record in log.read("all-shards", partition, 0, 1000)] for partition in range(2)]
    for partition in range(2):
        log.append("some-shards", records[partition][: len(records[partition]) * 2 // 3], time_ms=1, partition=partition)
    rest = replay(world, job, output="some-shards", shard_ms=SHARD_MS)
    assert 0 < rest.requests < NUM_REQUESTS * 2 // 3
    assert [[record.value for record in log.read("some-shards", partition, 0, 1000)] for partition in range(2)] == records
    again = replay(world, job, output="some-shards", shard_ms=SHARD_MS)
    assert (again.records_written, again.records_present) == (0, rest.records_written + rest.records_present)


def test_files_of_shards_have_the_same_examples(world: World, stream: Any, tmp_path: Path) -> None:
    job, log, archive = stream
    replay(world, job, archive=archive, folder=tmp_path, shard_ms=SHARD_MS)
    assert rows_of(tmp_path) == rows_in(world, job, log, "examples")


def test_files_of_an_earlier_run_with_other_bounds_are_deleted(stream: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, log, _ = stream
    records = log.read("examples", 0, 0, 10_000)
    times_ms = [time_ms for record in records for time_ms in decode_examples(record.value).times_ms.tolist()]
    shard = Shard(3, 9, min(times_ms), max(times_ms) + 1, 0, 1)
    target, counts = FolderOutput(tmp_path, "1-2", "rules"), Counter[str]()

    def write(*steps: list[bytes]) -> Counter[Any]:
        output = target.open(0, lambda name, number: counts.update({name: number}))
        for values in steps:
            output.write(shard.number, Step(shard.to_ms - 1, values))
        output.end_shard(shard)
        return rows_of(tmp_path)

    target.begin()
    other = FolderOutput(tmp_path, "1-2", "rules").open(1, lambda *_: None)
    other.write(shard.number, Step(1, [records[0].value]))
    other.end_shard(shard)
    of_other = rows_of(tmp_path)
    whole = write([record.value for record in records])
    assert len(whole) > len(of_other)
    monkeypatch.setattr(folder_output, "_FILE_BYTES", 1)
    assert write(*([record.value] for record in records)) == whole
    assert write() == of_other, "those of another partition stay"


def test_the_marker_of_a_replay_is_whole_whenever_its_writer_dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = FolderOutput(tmp_path, "1-2", "rules")
    target.begin()

    def full_disk(path: Path, text: str) -> int:
        path.write_bytes(text.encode()[:5])
        raise OSError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", full_disk)
        with pytest.raises(ArchiveError, match="no space left"):
            target.end()
    target.begin()
    target.end()
    assert json.loads((tmp_path / "_archive" / "replay-1-2.json").read_text())["complete"]
