"""KuaiRand as a stream: time order, all features of the demo's job, actions at the end of a play."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from monolith_demo.dataset import kuairand
from monolith_demo.dataset.kuairand import Requests, Stream
from monolith_py.config import load_job
from monolith_py.data.ids import fid_from_text


@pytest.fixture(scope="module")
def stream() -> Stream:
    return kuairand.load_stream()


@pytest.fixture(scope="module")
def requests(stream: Stream) -> Requests:
    return kuairand.Requests(stream, kuairand.load_users(), kuairand.load_videos())


def write_table(folder: Path, name: str, columns: dict[str, list[Any]]) -> None:
    parquet.write_table(pa.table(columns), folder / name)


def test_the_shipped_impressions_are_in_order_of_time_over_fourteen_days(stream: Stream) -> None:
    assert len(stream) == 222_457
    assert (np.diff(stream.times_ms) >= 0).all()
    days = stream.days
    assert (np.diff(days) >= 0).all() and set(days.tolist()) == set(range(1, 15))
    starts = [stream.first_of_day(day) for day in range(1, 16)]
    assert (starts[0], starts[-1]) == (0, len(stream))
    for day, start, stop in zip(range(1, 15), starts, starts[1:], strict=False):
        assert set(days[start:stop].tolist()) == {day}
    # A day in China begins at 16:00 UTC; day 1 includes the evening before.
    seconds = stream.times_ms[starts[5]] // 1000 % 86_400
    assert 16 * 3600 <= seconds < 16 * 3600 + 600
    assert stream.days[: stream.first_of_day(kuairand.HISTORY_DAYS + 1)].max() == kuairand.HISTORY_DAYS


def test_a_head_keeps_the_first_impressions_as_they_are(stream: Stream) -> None:
    head = stream.head(100)
    assert len(head) == 100
    for name in ("users", "videos", "tabs", "times_ms", "plays_ms", "clicks", "long_views"):
        assert np.array_equal(getattr(head, name), getattr(stream, name)[:100])


def test_what_a_user_did_is_known_at_the_end_of_the_play_and_the_end_comes_last(make_stream: Callable[..., Stream]) -> None:
    stream = make_stream()
    for index in range(len(stream)):
        played = bool(stream.plays_ms[index])
        expected = ["click"] * int(stream.clicks[index]) + ["long_view"] * int(stream.long_views[index]) + ["play_end"] * played
        actions = stream.actions(index)
        assert [action.kind for action in actions] == expected
        assert stream.num_actions[index] == len(expected)
        at = (stream.request_id(index), stream.videos[index], stream.times_ms[index] + stream.plays_ms[index], 1.0)
        assert {(action.request_id, action.item_id, action.time_ms, action.value) for action in actions} <= {at}


def test_request_ids_tell_all_impressions_apart(stream: Stream) -> None:
    assert len({stream.request_id(index) for index in range(len(stream))}) == len(stream)


def test_each_impression_carries_every_feature_of_the_demo_s_settings_and_no_other(
    deploy: Path, stream: Stream, requests: Requests
) -> None:
    job = load_job(deploy / "configs" / "demo.toml")
    shared = {feature.name for feature in job.features if feature.source in ("user_id", "user", "context")}
    candidates = {feature.name for feature in job.features if feature.source in ("item_id", "item")}
    for index, impression in enumerate(requests.impressions(range(5))):
        assert (set(impression.shared.sparse), set(impression.candidates.sparse)) == (shared, candidates)
        assert (impression.request_id, impression.time_ms) == (stream.request_id(index), stream.times_ms[index])
        assert (impression.user_id, impression.item_ids.tolist()) == (stream.users[index], [stream.videos[index]])
        assert impression.shared.sparse["user_id"].fids.tolist() == [stream.users[index]]
        assert impression.shared.sparse["tab"].fids.tolist() == [stream.tabs[index]]
        assert impression.candidates.sparse["video_id"].fids.tolist() == [stream.videos[index]]


def test_every_user_and_video_of_the_stream_has_stored_features(stream: Stream) -> None:
    assert set(stream.users.tolist()) <= set(kuairand.load_users())
    assert set(stream.videos.tolist()) <= set(kuairand.load_videos())


def test_impressions_are_sorted_by_time_and_equal_times_keep_their_order(tmp_path: Path) -> None:
    times = [5, 3, 9, 3, 1]
    columns = {"user_id": [50, 30, 90, 31, 10], "video_id": [1] * 5, "tab": [2] * 5, "time_ms": times, "play_time_ms": times}
    write_table(tmp_path, "kuairand_pure_0425_0508.parquet", {**columns, "is_click": [1, 0, 0, 1, 0], "long_view": [0, 0, 1, 1, 0]})
    stream = kuairand.load_stream(tmp_path)
    assert stream.users.tolist() == [10, 30, 31, 50, 90]
    assert (stream.times_ms.tolist(), stream.plays_ms.tolist()) == ([1, 3, 3, 5, 9], [1, 3, 3, 5, 9])
    assert (stream.clicks.tolist(), stream.long_views.tolist()) == ([0, 0, 1, 1, 0], [0, 0, 1, 0, 1])


def test_a_category_is_a_fid_a_whole_number_itself_a_text_its_hash_and_the_unknown_one_of_its_own(tmp_path: Path) -> None:
    columns: dict[str, list[Any]] = {name: [1.0, float("nan"), None] for name in kuairand.USER_FEATURES}
    columns["user_active_degree"] = ["full_active", None, "2"]
    write_table(tmp_path, "kuairand_users.parquet", {"user_id": [7, 8, 9], **columns})
    users = kuairand.load_users(tmp_path)
    fids = {user: {name: column.fids.tolist() for name, column in row.sparse.items()} for user, row in users.items()}
    assert [fids[user]["user_active_degree"] for user in (7, 8, 9)] == [[fid_from_text("full_active")], [-1], [fid_from_text("2")]]
    assert [fids[user]["onehot_feat3"] for user in (7, 8, 9)] == [[1], [-1], [-1]]
    assert all(row.num_rows == 1 for row in users.values())


def test_a_video_has_its_tags_once_each_and_a_bucket_of_its_duration(tmp_path: Path) -> None:
    columns: dict[str, list[Any]] = {name: [4, 5] for name in kuairand.VIDEO_FEATURES}
    rows = {"video_id": [1, 2], "video_duration": [2000.0, None], "tag": ["12,8,12", None], **columns}
    write_table(tmp_path, "kuairand_videos.parquet", rows)
    videos = kuairand.load_videos(tmp_path)
    tags = [(videos[video].sparse["tag"].fids.tolist(), videos[video].sparse["tag"].lengths.tolist()) for video in (1, 2)]
    assert tags == [([8, 12], [2]), ([], [0])]
    assert [videos[video].sparse["duration"].fids.tolist() for video in (1, 2)] == [[8], [-1]]


def test_duration_buckets_are_four_to_each_doubling() -> None:
    bucket = kuairand.duration_bucket
    assert [bucket(ms) for ms in (None, float("nan"), 0.0, 1.0, 500.0, 1000.0, 1200.0, 2000.0)] == [-1, -1, -1, 0, 0, 4, 5, 8]
    lengths = np.geomspace(500, 600_000, 200)
    assert [bucket(2 * ms) - bucket(ms) for ms in lengths] == [4] * 200
    assert (np.diff([bucket(ms) for ms in lengths]) >= 0).all()
