"""The streams of the evidence on online learning: KuaiRand, MIND, Open Bandit and the generated one.

Letters: R requests in order of time, n candidates of all requests.
"""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as parquet
from online_streams import OnlineStream
from streams import kuairand
from tower_streams import looked_up

from monolith_demo.dataset import listwise
from monolith_py.data.columns import Int64Array, SparseColumn
from monolith_py.data.ids import fid_from_text

DEMO = Path(__file__).parents[2] / "deploy" / "configs" / "demo.toml"
# Share of the requests that is history, but for KuaiRand, whose demo splits at day 10 of 14 (72 %).
HISTORY_SHARE = 0.65
# Mean of the click delays that are drawn where the data have none.
CLICK_DELAY_MS = 30_000.0
_DRAWN_DELAYS = f"click delays are drawn: exponential, mean {CLICK_DELAY_MS / 1000:.0f} s"
GENERATED_REQUESTS, GENERATED_DAYS = 12_000, 4.0
_DAY_MS = 24 * 3600 * 1000
_HOUR_MS = 3600 * 1000
_MIND_FILE, _OBD_FILE = "mind_5k.parquet", "obd_60k.parquet"
_MIND_TIME = "%m/%d/%Y %I:%M:%S %p"
_OBD_USER = tuple(f"user_feature_{number}" for number in range(4))


@dataclass(frozen=True)
class Lists:
    """R requests with n candidates, one fid of each feature, as the data have them."""

    times_ms: Int64Array  # (R,)
    users: Int64Array  # (R,) fids
    lengths: Int64Array  # (R,) candidates of each request
    items: Int64Array  # (n,) fids
    shared: dict[str, Int64Array]  # (R,) each
    candidates: dict[str, Int64Array]  # (n,) each
    clicks: npt.NDArray[np.bool_]  # (n,)


def kuairand_stream() -> OnlineStream:
    """Return the shipped KuaiRand with features, tasks, tower and window of the demo; the terminal action is the end of a play."""
    stream = kuairand.load_stream()
    settings = _sections(tomllib.loads(DEMO.read_text()), ("features", "tasks", "model", "joiner"))
    settings["joiner"].pop("linger_s")
    users, videos = kuairand.load_users(), kuairand.load_videos()
    one: npt.NDArray[np.int32] = np.ones(len(stream), np.int32)
    shared = {"user_id": SparseColumn(stream.users, one), "tab": SparseColumn(stream.tabs, one)}
    for name in kuairand.USER_FEATURES:
        shared[name] = looked_up(stream.users, lambda user, name=name: users[user].sparse[name].fids)
    candidates = {"video_id": SparseColumn(stream.videos, one)}
    for name in (*kuairand.VIDEO_FEATURES, "duration", "tag"):
        candidates[name] = looked_up(stream.videos, lambda video, name=name: videos[video].sparse[name].fids)
    return OnlineStream(
        "kuairand",
        "KuaiRand-Pure as shipped, one candidate a request, features, tower and window of the demo; history: days 1 to 10 of 14; labels "
        "are known at the end of the play, without a play after 600 s",
        settings,
        stream.times_ms,
        stream.users,
        np.arange(len(stream) + 1),
        stream.videos,
        shared,
        candidates,
        {"long_view": stream.long_views, "click": stream.clicks},
        stream.action_times_ms,
        stream.plays_ms > 0,
        np.unique(stream.users, return_inverse=True)[1],
        stream.first_of_day(kuairand.HISTORY_DAYS + 1),
    )


def mind_stream(folder: Path, seed: int) -> OnlineStream:
    """Return the sample of MIND in `folder`: news lists with the clicked articles; `seed` draws the click delays."""
    return mind_of(parquet.read_table(folder / _MIND_FILE), seed)


def mind_of(table: pa.Table, seed: int) -> OnlineStream:
    """Return a table of MIND's columns `user`, `time` and `impressions` ("N1-0 N2-1": shown, shown and clicked) as a stream.

    The first day of an article is that of the first request that shows it.
    """
    rows = sorted(
        (_utc_ms(row["time"], _MIND_TIME), place, row["user"], row["impressions"].split()) for place, row in enumerate(table.to_pylist())
    )
    times_ms = np.array([time_ms for time_ms, *_ in rows], np.int64)
    shown = [entry.rpartition("-")[::2] for *_, entries in rows for entry in entries]
    lengths = np.array([len(entries) for *_, entries in rows], np.int64)
    items = _fids([item for item, _ in shown])
    clicks = np.array([label == "1" for _, label in shown])
    days = np.repeat(times_ms // _DAY_MS, lengths)
    _, first_rows, inverse = np.unique(items, return_index=True, return_inverse=True)
    first_days = days[first_rows][inverse]
    return list_stream(
        "mind",
        f"MIND-small news, a sample of {len(rows):,} requests with {lengths.mean():.0f} candidates each",
        Lists(
            times_ms,
            users=_fids([user for _, _, user, _ in rows]),
            lengths=lengths,
            items=items,
            shared={"hour": times_ms % _DAY_MS // _HOUR_MS},
            candidates={"first_day": first_days, "age": days - first_days},
            clicks=clicks,
        ),
        seed,
    )


def obd_stream(folder: Path, seed: int) -> OnlineStream:
    """Return the sample of Open Bandit in `folder`; `seed` draws the click delays."""
    return obd_of(parquet.read_table(folder / _OBD_FILE), seed)


def obd_of(table: pa.Table, seed: int) -> OnlineStream:
    """Return a table of Open Bandit's columns as a stream: one shown item a request, with its place and the features of its user.

    The user is not named: the four features of the user together stand for one.
    """
    when = np.array([_iso_ms(value) for value in table.column("timestamp").to_pylist()], np.int64)
    order = np.argsort(when, kind="stable")
    times_ms, table = when[order], table.take(pa.array(order))
    items = np.asarray(table.column("item_id"), np.int64)
    profile = {name: table.column(name).to_pylist() for name in _OBD_USER}
    affinities = [table.column(f"user-item_affinity_{item}").to_numpy(zero_copy_only=False) for item in range(80)]
    affinity = np.nan_to_num(np.stack([np.asarray(values, np.float64) for values in affinities])[items, np.arange(len(items))])
    return list_stream(
        "obd",
        f"Open Bandit (ZOZO), a sample of {len(items):,} single items",
        Lists(
            times_ms,
            users=_fids(["/".join(row) for row in zip(*profile.values(), strict=True)]),
            lengths=np.ones(len(items), np.int64),
            items=items,
            shared={"hour": times_ms % _DAY_MS // _HOUR_MS, **{name: _fids(values) for name, values in profile.items()}},
            candidates={"position": np.asarray(table.column("position"), np.int64), "affinity": affinity.astype(np.int64)},
            clicks=np.asarray(table.column("click"), np.int64) > 0,
        ),
        seed,
    )


def generated_stream(seed: int, num_requests: int = GENERATED_REQUESTS) -> OnlineStream:
    """Return the generated news lists with drift (deploy/demo/dataset/listwise.py); world, clicks and delays are those of `seed`."""
    made = listwise.generate(seed, num_requests=num_requests, days=GENERATED_DAYS * num_requests / GENERATED_REQUESTS)
    lengths = np.diff(made.offsets)
    stream = list_stream(
        "generated",
        f"generated news lists with drift (deploy/demo/dataset/listwise.py), {num_requests:,} requests of {lengths.mean():.0f} candidates "
        f"on average in {GENERATED_DAYS * num_requests / GENERATED_REQUESTS:.1f} days; another world for each seed",
        Lists(
            made.times_ms,
            users=made.users,
            lengths=lengths,
            items=made.items,
            shared={"hour": made.times_ms % _DAY_MS // _HOUR_MS},
            candidates={
                "topic": made.item_topics[made.items - 1],
                "publisher": made.item_publishers[made.items - 1],
                "age": made.ages_h,
            },
            clicks=made.clicks,
        ),
        seed,
    )
    delays = "click delays are the generator's: log-normal, median 30 s"
    return dataclasses.replace(
        stream,
        about=stream.about.replace(_DRAWN_DELAYS, delays),
        action_times_ms=np.repeat(made.times_ms, lengths) + made.click_delays_ms,
        truth=made.click_probability.astype(np.float32),
    )


def list_stream(name: str, about: str, lists: Lists, seed: int) -> OnlineStream:
    """Return a stream of one task, click, with user and item and one fid of each other feature; `seed` draws the click delays."""
    times_ms, users, lengths, items = lists.times_ms, lists.users, lists.lengths, lists.items
    shared, candidates = lists.shared, lists.candidates
    delays_ms = np.random.default_rng(seed).exponential(CLICK_DELAY_MS, len(items)).astype(np.int64) + 1
    starts = np.r_[0, np.cumsum(lengths)]
    live_from = int(HISTORY_SHARE * len(times_ms))
    features = [{"name": "user_id", "source": "user_id"}, {"name": "item_id", "source": "item_id"}]
    features += [{"name": feature, "source": "context"} for feature in shared]
    features += [{"name": feature, "source": "item"} for feature in candidates]
    settings = {"features": features, "tasks": [{"name": "click", "action": "click"}]}
    return OnlineStream(
        name,
        f"{about}; history: the first {HISTORY_SHARE:.0%} of the requests; {_DRAWN_DELAYS}; a "
        f"candidate without a click is known after the window of 600 s",
        settings,
        times_ms,
        users,
        starts,
        items,
        {"user_id": _column(users), **{feature: _column(fids) for feature, fids in shared.items()}},
        {"item_id": _column(items), **{feature: _column(fids) for feature, fids in candidates.items()}},
        {"click": lists.clicks},
        np.repeat(times_ms, lengths) + delays_ms,
        np.zeros(len(items), np.bool_),
        np.arange(len(times_ms)),
        live_from,
    )


def _column(fids: Int64Array) -> SparseColumn:
    return SparseColumn(np.ascontiguousarray(fids, np.int64), np.ones(len(fids), np.int32))


def _fids(texts: list[str]) -> Int64Array:
    """Return the fid of each text; each different one is hashed once."""
    known = {text: fid_from_text(text) for text in set(texts)}
    return np.array([known[text] for text in texts], np.int64)


def _utc_ms(text: str, form: str) -> int:
    return int(datetime.strptime(text, form).replace(tzinfo=UTC).timestamp() * 1000)


def _iso_ms(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1000)


def _sections(settings: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: settings[name] for name in names}
