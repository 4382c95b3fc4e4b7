"""Generator of a news-like stream: requests of 5 to 20 candidates, several clicks possible, with the true click probability of each.

Letters: R requests in time order, C candidates of all requests, I items, K topics. World time w (hours) is `drift` times the hours since
the start: every change below runs in world time, so `drift=0` is a world that stands still.

**Requests.** Times are drawn independently, with density 1 + 0.6 cos(2 pi (h - 20) / 24) at hour of day h (UTC): four times as many at
20:00 as at 08:00. Users are Zipf: user k of 3,000 has a share proportional to k ** -0.8. The number of candidates is
5 + Binomial(15, 0.4), on average 11.

**Items.** Births are a Poisson process of 25 an hour, from 36 hours before the start. An item has a topic (Zipf over K = 12, exponent 0.5),
one of 40 publishers (Zipf, exponent 0.7), and leaves 36 hours after its birth. Request candidates are drawn without replacement, with
weight exp(e) * 2 ** (-age / 6 h), e ~ N(0, 0.7 ** 2), by Gumbel top-k (Kool et al. 2019, arXiv 1903.06059, section 2.3); the order of
the draw is the position.

**Truth.** The logit of a click by user u on item i at position p (0 the first), at world time w, is

    -2.05 + a[u, topic] + b[publisher] + q[i](w) + g[topic](w) - ln(2) * age / 8 h - 0.3 ln(1 + p)

- a ~ N(0, 0.8 ** 2): taste of a user, constant.
- b ~ N(0, 0.3 ** 2): publisher, constant.
- q: quality of an item. N(0, 0.7 ** 2) at its birth, plus an Ornstein-Uhlenbeck walk (relaxation 6 h, standard deviation 0.4).
- g: popularity of a topic. Ornstein-Uhlenbeck walk (relaxation 12 h, standard deviation 0.5), plus breaks: six a day over all topics; each
  lifts one topic by 1 to 2 within 5 minutes and halves every 2 hours.
- age: the odds of a click halve every 8 hours.
- p: examination of a position. No model sees it: a request of the service has no features of single candidates.

A click comes after a log-normal delay, median 30 s, sigma 1: 0.14 % of the clicks come after 10 minutes. The constants give a click rate
of about 8 % and an oracle AUC of about 0.82.

Five of eight candidates of a day are of items that were born in that day. Their quality shows in their clicks only: a model of the day
before knows their topic, publisher and age.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
import numpy.typing as npt

from monolith_demo.dataset.list_world import NUM_USERS, Shown, draw_candidates, make_world, zipf
from monolith_py.data.events import Action

# Noon, UTC.
START_MS = 1_772_452_800_000
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
_LEAST_CANDIDATES, _MOST_CANDIDATES, _CANDIDATE_SHARE = 5, 20, 0.4
_USER_EXPONENT = 0.8
_LOAD_SWING, _BUSIEST_HOUR = 0.6, 20
_DELAY_MEDIAN_MS, _DELAY_SIGMA = 30_000.0, 1.0

Int64Array = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class ListStream:
    """R requests in time order; the candidates of request r are rows offsets[r] to offsets[r + 1] of the arrays of length C.

    >>> stream = generate(0, num_requests=100, days=1.0)
    >>> len(stream), bool(stream.clicks.any())
    (100, True)
    """

    times_ms: Int64Array  # (R,)
    users: Int64Array  # (R,) from 1
    offsets: Int64Array  # (R + 1,)
    items: Int64Array  # (C,) item ids: 1 + index into the arrays of length I
    positions: Int64Array  # (C,) from 0
    ages_h: Int64Array  # (C,) world hours begun since the hour of birth
    click_probability: FloatArray  # (C,) the truth, at the time of the request
    clicks: BoolArray  # (C,)
    click_delays_ms: Int64Array  # (C,) 0 without a click
    item_topics: Int64Array  # (I,)
    item_publishers: Int64Array  # (I,)
    item_births_h: FloatArray  # (I,) world hours, sorted; below 0 for items older than the stream

    def __len__(self) -> int:
        return len(self.users)

    @cached_property
    def requests(self) -> Int64Array:
        """Return the request of each candidate: int64 (C,)."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    @cached_property
    def clicked(self) -> Int64Array:
        """Return the rows of the clicked candidates: int64 (m,)."""
        return np.flatnonzero(self.clicks)

    @property
    def action_requests(self) -> Int64Array:
        """Return the request of each click: int64 (m,)."""
        requests: Int64Array = self.requests[self.clicked]
        return requests

    @property
    def action_times_ms(self) -> Int64Array:
        """Return the time of each click: int64 (m,)."""
        times_ms: Int64Array = self.times_ms[self.action_requests] + self.click_delays_ms[self.clicked]
        return times_ms

    @property
    def num_actions(self) -> Int64Array:
        """Return the number of actions at each moment, one click: int64 (m,)."""
        return np.ones(len(self.clicked), np.int64)

    @property
    def oracle_auc(self) -> float:
        """Return the AUC of the true probabilities over all candidates."""
        return oracle_auc(self.click_probability, self.clicks)

    def request_id(self, index: int) -> str:
        """Return the id of one request."""
        return f"list-{index:06d}"

    def candidates(self, index: int) -> list[int]:
        """Return the item ids of one request, by position."""
        items: list[int] = self.items[self.offsets[index] : self.offsets[index + 1]].tolist()
        return items

    def context(self, index: int) -> dict[str, list[int]]:
        """Return the context features of one request: the hour of day."""
        return {"hour": [hour_of_day(int(self.times_ms[index]))]}

    def actions(self, index: int) -> list[Action]:
        """Return the click of row `index` of `clicked`, as a list of one."""
        row = int(self.clicked[index])
        request = int(self.requests[row])
        time_ms = int(self.times_ms[request] + self.click_delays_ms[row])
        return [Action(self.request_id(request), int(self.items[row]), "click", time_ms)]

    def head(self, count: int) -> ListStream:
        """Return the first `count` requests, with all items."""
        end = int(self.offsets[count])
        lengths = {"times_ms": count, "users": count, "offsets": count + 1}
        whole = ("item_topics", "item_publishers", "item_births_h")
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return ListStream(**{name: value if name in whole else value[: lengths.get(name, end)] for name, value in values.items()})


def generate(seed: int, *, num_requests: int, days: float, drift: float = 1.0) -> ListStream:
    """Return a stream of `num_requests` requests over `days` days from START_MS; `drift` is the speed of every change, 0 for none.

    Raises:
        ValueError: `num_requests` or `days` is not above 0, or `drift` is below 0.
    """
    if num_requests <= 0 or days <= 0 or drift < 0:
        raise ValueError(f"num_requests and days must be > 0 and drift >= 0, got {num_requests}, {days} and {drift}")
    generator = np.random.default_rng(seed)
    times_ms = _request_times(generator, num_requests, days)
    world_h = drift * (times_ms - START_MS) / HOUR_MS  # (R,)
    world = make_world(generator, drift * days * 24)
    users = zipf(generator, NUM_USERS, _USER_EXPONENT, num_requests)
    counts = _LEAST_CANDIDATES + generator.binomial(_MOST_CANDIDATES - _LEAST_CANDIDATES, _CANDIDATE_SHARE, num_requests)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    items = draw_candidates(generator, world, world_h, counts)  # (C,)
    positions = np.arange(len(items)) - np.repeat(offsets[:-1], counts)
    requests = np.repeat(np.arange(num_requests), counts)
    probabilities = world.click_probability(Shown(world_h[requests], users[requests], items, positions))
    clicks = generator.random(len(items)) < probabilities
    delays_ms = 1 + generator.lognormal(np.log(_DELAY_MEDIAN_MS), _DELAY_SIGMA, len(items)).astype(np.int64)
    return ListStream(
        times_ms=times_ms,
        users=users + 1,
        offsets=offsets,
        items=items + 1,
        positions=positions,
        ages_h=(np.floor(world_h)[requests] - np.floor(world.births_h)[items]).astype(np.int64),
        click_probability=probabilities,
        clicks=clicks,
        click_delays_ms=np.where(clicks, delays_ms, 0),
        item_topics=world.topics,
        item_publishers=world.publishers,
        item_births_h=world.births_h,
    )


def hour_of_day(time_ms: int) -> int:
    """Return the hour of day (UTC), 0 to 23."""
    return time_ms // HOUR_MS % 24


def oracle_auc(scores: FloatArray, labels: BoolArray) -> float:
    """Return the AUC of `scores` (n,), as the rank sum of Mann and Whitney; equal scores count half. NaN with one class only."""
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]  # (n,) mean rank of equal scores, from 1
    positives = int(labels.sum())
    pairs = positives * (len(labels) - positives)
    return float((ranks[labels].sum() - positives * (positives + 1) / 2) / pairs) if pairs else float("nan")


def _request_times(generator: np.random.Generator, num_requests: int, days: float) -> Int64Array:
    """Return sorted times in milliseconds, drawn from the daily load by the inverse of its cumulative share: int64 (R,)."""
    edges_h = np.linspace(0.0, days * 24, max(2, round(days * 24 * 60)))
    hours = START_MS / HOUR_MS % 24 + edges_h
    load = 1 + _LOAD_SWING * np.cos(2 * np.pi * (hours - _BUSIEST_HOUR) / 24)
    share = np.concatenate([[0.0], np.cumsum((load[1:] + load[:-1]) / 2)])
    at_h = np.interp(np.sort(generator.random(num_requests)) * share[-1], share, edges_h)
    times_ms: Int64Array = START_MS + (at_h * HOUR_MS).astype(np.int64)
    return times_ms
