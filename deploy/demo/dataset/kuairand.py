"""KuaiRand as a stream: impressions in time order, the actions on them, and stored features of users and videos.

Letters: n impressions, in time order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as parquet

from monolith_py.data.columns import FeatureColumns, SparseColumn
from monolith_py.data.events import Action, Impression
from monolith_py.data.ids import fid_from_text

DATA = Path(__file__).with_name("data")
# Days are in China time, the users' time. Day 1 includes the 141 impressions of the evening before it.
NUM_DAYS = 14
HISTORY_DAYS = 10
_DAY_MS = 24 * 3600 * 1000
_CHINA_MS = 8 * 3600 * 1000
# Fid of an unknown category.
_UNKNOWN = -1

USER_FEATURES = (
    "user_active_degree",
    "is_live_streamer",
    "is_video_author",
    "follow_user_num_range",
    "fans_user_num_range",
    "friend_user_num_range",
    "register_days_range",
    *(f"onehot_feat{number}" for number in (0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11)),
)
VIDEO_FEATURES = ("author_id", "video_type", "upload_type", "music_type", "music_id")

Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Stream:
    """The n impressions in time order; each is one request with one candidate."""

    users: Int64Array
    videos: Int64Array
    tabs: Int64Array
    times_ms: Int64Array
    plays_ms: Int64Array  # 0: not played
    clicks: BoolArray
    long_views: BoolArray

    def __len__(self) -> int:
        return len(self.users)

    @property
    def days(self) -> Int64Array:
        """Return the day of each impression, 1 to 14: int64 (n,)."""
        days = (self.times_ms + _CHINA_MS) // _DAY_MS
        from_one: Int64Array = np.maximum(days - days[-1] + NUM_DAYS, 1)
        return from_one

    @property
    def action_times_ms(self) -> Int64Array:
        """Return the time of each impression's actions, the end of the play, in milliseconds: int64 (n,)."""
        return self.times_ms + self.plays_ms

    @property
    def offsets(self) -> Int64Array:
        """Return the first candidate of each request, and the end of the last: int64 (n + 1,)."""
        return np.arange(len(self) + 1)

    @property
    def action_requests(self) -> Int64Array:
        """Return the impression of each moment of actions, which is itself: int64 (n,)."""
        return np.arange(len(self))

    @property
    def num_actions(self) -> Int64Array:
        """Return the number of actions on each impression: int64 (n,)."""
        return self.clicks.astype(np.int64) + self.long_views + (self.plays_ms > 0)

    def request_id(self, index: int) -> str:
        """Return the request id of one impression."""
        return f"kuairand-{index:06d}"

    def candidates(self, index: int) -> list[int]:
        """Return the video of one impression, as a list of one."""
        return [int(self.videos[index])]

    def context(self, index: int) -> dict[str, list[int]]:
        """Return the context features of one impression: the tab of the app."""
        return {"tab": [int(self.tabs[index])]}

    def actions(self, index: int) -> list[Action]:
        """Return the actions on one impression: click and long_view at the end of the play, then `play_end`, at the same time.

        An impression without a play has no `play_end`, so its example waits for the joiner's window.
        """
        kinds = [("click", self.clicks[index]), ("long_view", self.long_views[index]), ("play_end", self.plays_ms[index] > 0)]
        time_ms = int(self.times_ms[index] + self.plays_ms[index])
        return [Action(self.request_id(index), int(self.videos[index]), kind, time_ms) for kind, done in kinds if done]

    def first_of_day(self, day: int) -> int:
        """Return the index of the first impression of `day`; n for the day after the last."""
        return int(np.searchsorted(self.days, day))

    def head(self, count: int) -> Stream:
        """Return the first `count` impressions."""
        return Stream(*(getattr(self, name)[:count] for name in self.__dataclass_fields__))


def load_stream(folder: Path = DATA) -> Stream:
    """Load the impressions from `folder`."""
    table = _columns(folder / "kuairand_pure_0425_0508.parquet")
    order = np.argsort(table["time_ms"], kind="stable")

    def numbers(name: str) -> Int64Array:
        return np.asarray(table[name], np.int64)[order]

    return Stream(
        users=numbers("user_id"),
        videos=numbers("video_id"),
        tabs=numbers("tab"),
        times_ms=numbers("time_ms"),
        plays_ms=numbers("play_time_ms"),
        clicks=numbers("is_click") > 0,
        long_views=numbers("long_view") > 0,
    )


def load_users(folder: Path = DATA) -> dict[int, FeatureColumns]:
    """Load the stored features by user id: the categories of the profile, one fid each."""
    table = _columns(folder / "kuairand_users.parquet")
    columns = {name: [_category(value) for value in table[name]] for name in USER_FEATURES}
    return {int(user): _one_row({name: [fids[row]] for name, fids in columns.items()}) for row, user in enumerate(table["user_id"])}


def load_videos(folder: Path = DATA) -> dict[int, FeatureColumns]:
    """Load the stored features by video id: author, categories, duration bucket, up to three tags."""
    table = _columns(folder / "kuairand_videos.parquet")
    columns = {name: [[_category(value)] for value in table[name]] for name in VIDEO_FEATURES}
    columns["duration"] = [[duration_bucket(value)] for value in table["video_duration"]]
    columns["tag"] = [sorted({int(tag) for tag in (value or "").split(",") if tag}) for value in table["tag"]]
    return {int(video): _one_row({name: fids[row] for name, fids in columns.items()}) for row, video in enumerate(table["video_id"])}


def duration_bucket(duration_ms: float | None) -> int:
    """Return the bucket of a duration in milliseconds: four buckets per doubling, from 0.5 s; -1 for an unknown duration.

    >>> [duration_bucket(ms) for ms in (None, 400.0, 1000.0, 1200.0, 2000.0)]
    [-1, 0, 4, 5, 8]
    """
    if duration_ms is None or not duration_ms > 0:
        return _UNKNOWN
    return max(0, math.floor(4 * math.log2(duration_ms / 500)))


@dataclass(frozen=True)
class Dataset:
    """Data of one run: the impressions, the first `num_history` of which are history, and all stored features by id."""

    stream: Stream
    num_history: int
    users: dict[int, FeatureColumns]
    items: dict[int, FeatureColumns]  # videos

    @property
    def requests(self) -> Requests:
        """Return the source of the impressions."""
        return Requests(self.stream, self.users, self.items)

    def when(self, index: int) -> str:
        """Return the day of one impression, for the progress bar."""
        return f"day {self.stream.days[index]}"

    @property
    def labels(self) -> dict[str, BoolArray]:
        """Return the labels by task, in the order of the job's tasks: bool (n,) each."""
        return {"long_view": self.stream.long_views, "click": self.stream.clicks}


def load_dataset(live_days: int) -> Dataset:
    """Load history and the first `live_days` (1 to 4) days of the live phase."""
    stream = load_stream()
    head = stream.head(stream.first_of_day(HISTORY_DAYS + 1 + live_days))
    return Dataset(head, stream.first_of_day(HISTORY_DAYS + 1), load_users(), load_videos())


class Requests:
    """Impressions of `stream` in the form that a replica logs: ids, context and stored features."""

    def __init__(self, stream: Stream, users: dict[int, FeatureColumns], videos: dict[int, FeatureColumns]) -> None:
        self._stream, self._users, self._videos = stream, users, videos

    def impressions(self, indices: range) -> Iterator[Impression]:
        """Yield the impressions at `indices`, without scores."""
        stream = self._stream
        for index in indices:
            user, video = int(stream.users[index]), int(stream.videos[index])
            shared = {"user_id": one_fid(user), "tab": one_fid(int(stream.tabs[index])), **self._users[user].sparse}
            candidates = {"video_id": one_fid(video), **self._videos[video].sparse}
            yield Impression(
                request_id=stream.request_id(index),
                time_ms=int(stream.times_ms[index]),
                user_id=user,
                item_ids=np.array([video], np.int64),
                shared=FeatureColumns(1, shared),
                candidates=FeatureColumns(1, candidates),
                scores=np.zeros((1, 0), np.float32),
            )


def one_fid(fid: int) -> SparseColumn:
    """Return a column with one row of one fid."""
    return SparseColumn(np.array([fid], np.int64), np.ones(1, np.int32))


def _one_row(fids: dict[str, list[int]]) -> FeatureColumns:
    return FeatureColumns(1, {name: SparseColumn(np.array(row, np.int64), np.array([len(row)], np.int32)) for name, row in fids.items()})


def _category(value: Any) -> int:
    """Return the fid of a category: a number is its own fid, a text is hashed."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return _UNKNOWN
    return fid_from_text(value) if isinstance(value, str) else int(value)


def _columns(path: Path) -> dict[str, list[Any]]:
    table = parquet.read_table(path)
    return {name: table.column(name).to_pylist() for name in table.column_names}
