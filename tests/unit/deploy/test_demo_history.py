"""History in the log: time order, the request's partition, counters of earlier impressions only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from monolith_demo.dataset.kuairand import Stream, one_fid
from monolith_demo.driver.history import write_features, write_history
from monolith_py.config import JobConfig
from monolith_py.data.columns import FeatureColumns
from monolith_py.data.counters import LiveCounters
from monolith_py.io import Kv, Log
from monolith_py.io.codec import decode_action, decode_features, decode_impression
from monolith_py.io.log.log import event_times
from monolith_py.io.log.topics import create_topics, partition_of

Write = Callable[..., Any]
MakeStream = Callable[..., Stream]
Appended = tuple[str, int, list[int], list[bytes]]  # topic, partition, times, values


class RecordingLog:
    """Records each append; cannot be read."""

    def __init__(self) -> None:
        self.appended: list[Appended] = []

    def append(self, topic: str, values: Sequence[bytes], *, time_ms: int | Sequence[int], partition: int = 0) -> int:
        self.appended.append((topic, partition, list(event_times(time_ms, len(values))), list(values)))
        return 0

    def events(self, topic: str) -> list[Any]:
        decode = decode_impression if topic == "impressions" else decode_action
        return [decode(value) for of, _, _, values in self.appended if of == topic for value in values]


@pytest.fixture
def write(make_demo_job: Callable[..., JobConfig], make_requests: Callable[[Any], Any]) -> Callable[..., Any]:
    """Return a function that writes the first `count` impressions of a stream and returns log, number of records and notes."""

    def write_into(stream: Stream, count: int, **settings: Any) -> tuple[RecordingLog, int, list[int]]:
        log, noted = RecordingLog(), []
        job = make_demo_job(**settings)
        total = write_history(log, job, stream, count, make_requests(stream), noted.append)
        return log, total, noted

    return write_into


def test_impressions_and_the_plays_that_end_before_the_next_one_are_written_once(write: Write, make_stream: MakeStream) -> None:
    stream, count = make_stream(200), 120
    log, total, noted = write(stream, count)
    next_ms = stream.times_ms[count]
    assert [impression.request_id for impression in log.events("impressions")] == [stream.request_id(index) for index in range(count)]
    expected = [action for index in range(count) for action in stream.actions(index) if action.time_ms < next_ms]
    assert 0 < len(expected) < sum(len(stream.actions(index)) for index in range(count))
    assert sorted(map(repr, log.events("actions"))) == sorted(map(repr, expected))
    assert total == sum(noted) == count + len(expected)


def test_a_whole_stream_is_all_history(write: Write, make_stream: MakeStream) -> None:
    stream = make_stream(50)
    log, _, _ = write(stream, 50)
    assert len(log.events("actions")) == stream.num_actions.sum()


def test_records_come_in_order_of_time_and_the_labels_of_a_request_before_its_end(write: Write, make_stream: MakeStream) -> None:
    stream = make_stream(200)
    log, _, _ = write(stream, 150)
    for topic in ("impressions", "actions"):
        times = [event.time_ms for event in log.events(topic)]
        assert times == sorted(times)
        appends = [time_ms for of, _, times_ms, _ in log.appended if of == topic for time_ms in times_ms]
        assert appends == times
    kinds: dict[str, list[str]] = {}
    for action in log.events("actions"):
        kinds.setdefault(action.request_id, []).append(action.kind)
    assert ["click", "long_view", "play_end"] in kinds.values()
    assert all(of == sorted(of) for of in kinds.values())


def test_appends_are_of_bounded_size_and_each_record_has_its_own_time(write: Write, make_stream: MakeStream) -> None:
    log, _, noted = write(make_stream(2500), 2500)
    assert max(noted) <= 1000
    for topic, _, times_ms, values in log.appended:
        assert times_ms == [(decode_impression if topic == "impressions" else decode_action)(value).time_ms for value in values]


def test_each_record_lies_in_the_partition_of_its_request(write: Write, make_stream: MakeStream) -> None:
    log, _, _ = write(make_stream(200), 150, partitions=4)
    for topic, partition, _, values in log.appended:
        ids = {(decode_impression if topic == "impressions" else decode_action)(value).request_id for value in values}
        assert {partition_of(request_id, 4) for request_id in ids} == {partition}
    assert {partition for _, partition, _, _ in log.appended} == {0, 1, 2, 3}


def test_the_log_finds_history_by_time(
    make_demo_job: Callable[..., JobConfig], make_requests: Any, make_stream: MakeStream, make_log: Callable[..., Log]
) -> None:
    stream, job, log = make_stream(300), make_demo_job(), make_log()
    create_topics(log, job.log)
    write_history(log, job, stream, 300, make_requests(stream), lambda _: None)
    for index in range(0, 300, 50):
        time_ms = int(stream.times_ms[index])
        (found,) = log.read("impressions", 0, log.offset_at("impressions", 0, time_ms), 1)
        assert decode_impression(found.value).time_ms == time_ms


def test_counters_served_are_of_what_was_joined_before_the_impression(
    write: Write, make_demo_job: Callable[..., JobConfig], make_stream: MakeStream
) -> None:
    stream, job = make_stream(300, seed=5, longest_play_ms=60_000), make_demo_job(counters=True)
    counters = LiveCounters.of(job)
    log, _, _ = write(stream, 300, counters=True)
    window_ms = round(job.joiner.window_s * 1000)
    known_ms = [int(time) + (int(play) or window_ms) for time, play in zip(stream.times_ms, stream.plays_ms, strict=True)]
    counted = 0
    for index, impression in enumerate(log.events("impressions")):
        before = [other for other in range(300) if known_ms[other] < stream.times_ms[index]]
        for key, ids in (("user_id", stream.users), ("video_id", stream.videos), ("tab", stream.tabs), ("author_id", stream.videos % 7)):
            alike = [other for other in before if ids[other] == ids[index]]
            counts = [[len(alike), int(stream.long_views[alike].sum())], [len(alike), int(stream.clicks[alike].sum())]]
            columns = impression.candidates if key in ("video_id", "author_id") else impression.shared
            expected = counters.values(counters.encode(np.array(counts)))
            assert columns.dense[f"counter_{key}"].tolist() == [expected.tolist()]
            counted += counts[0][0]
    assert counted > 1000


def test_without_counters_nothing_is_dense(write: Write, make_stream: MakeStream) -> None:
    log, _, _ = write(make_stream(20), 20)
    assert all(not impression.shared.dense and not impression.candidates.dense for impression in log.events("impressions"))


def test_stored_features_lie_where_replicas_look(make_kv: Callable[..., Kv]) -> None:
    users = {user: FeatureColumns(1, {"degree": one_fid(user)}) for user in range(2500)}
    videos = {7: FeatureColumns(1, {"author_id": one_fid(70)})}
    kv = make_kv()
    write_features(kv, users, videos)
    assert len(list(kv.scan("user:"))) == 2500
    user, item = kv.get_many(["user:2499", "item:7"])
    assert user is not None and decode_features(user).sparse["degree"].fids.tolist() == [2499]
    assert item is not None and decode_features(item).sparse["author_id"].fids.tolist() == [70]
