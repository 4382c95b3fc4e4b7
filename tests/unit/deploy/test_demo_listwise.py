"""Generator of the list-wise stream: its truth is the truth, and without drift nothing changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

import numpy as np
import pytest

from monolith_demo.dataset.listwise import DAY_MS, HOUR_MS, START_MS, ListStream, generate, oracle_auc
from monolith_py.training import auc

Make = Callable[..., ListStream]


@pytest.fixture(scope="module")
def make() -> Make:
    """Return a function that generates a stream of two days; equal arguments give the same object."""
    known: dict[tuple[int, int, float], ListStream] = {}

    def stream(seed: int = 0, num_requests: int = 8000, drift: float = 1.0) -> ListStream:
        key = (seed, num_requests, drift)
        if key not in known:
            known[key] = generate(seed, num_requests=num_requests, days=2.0, drift=drift)
        return known[key]

    return stream


def rates_by_bucket(stream: ListStream, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mean probability, click rate and size of ten equal buckets of probability."""
    rows = rows[np.argsort(stream.click_probability[rows])]
    parts = np.array_split(rows, 10)
    means = [(stream.click_probability[part].mean(), stream.clicks[part].mean(), len(part)) for part in parts]
    return tuple(np.array(values) for values in zip(*means, strict=True))  # type: ignore[return-value]


@pytest.mark.parametrize("drift", [1.0, 0.0])
def test_clicks_come_as_often_as_their_probability_says(make: Make, drift: float) -> None:
    stream = make(drift=drift)
    expected, rates, sizes = rates_by_bucket(stream, np.arange(len(stream.items)))
    assert (np.abs(rates - expected) < 5 * np.sqrt(expected * (1 - expected) / sizes)).all()
    assert rates[-1] > 10 * rates[0]


@pytest.mark.parametrize("group", ["first hours", "last hours", "first position", "late position", "old items"])
def test_the_truth_holds_in_each_part_of_the_stream(make: Make, group: str) -> None:
    stream = make()
    times_ms = stream.times_ms[stream.requests]
    rows = np.flatnonzero(
        {
            "first hours": times_ms < START_MS + 8 * HOUR_MS,
            "last hours": times_ms >= START_MS + 40 * HOUR_MS,
            "first position": stream.positions == 0,
            "late position": stream.positions > 10,
            "old items": stream.ages_h > 12,
        }[group]
    )
    expected = stream.click_probability[rows]
    assert abs(stream.clicks[rows].sum() - expected.sum()) < 5 * np.sqrt((expected * (1 - expected)).sum())


def test_the_same_seed_gives_the_same_stream_and_another_seed_another() -> None:
    one, same, other = (generate(seed, num_requests=300, days=0.5) for seed in (3, 3, 4))
    for field in fields(one):
        assert np.array_equal(getattr(one, field.name), getattr(same, field.name)), field.name
    assert not np.array_equal(one.items[:100], other.items[:100])


def test_the_stream_looks_like_a_news_site(make: Make) -> None:
    stream = make()
    counts = np.diff(stream.offsets)
    assert (counts.min(), counts.max()) >= (5, 15) and counts.max() <= 20
    assert counts.mean() == pytest.approx(11, abs=0.1)
    assert 0.05 < stream.clicks.mean() < 0.10
    assert np.bincount(stream.requests, stream.clicks).max() >= 4  # several clicks of one request
    assert (np.diff(stream.times_ms) >= 0).all()
    assert stream.times_ms[0] >= START_MS and stream.times_ms[-1] < START_MS + 2 * DAY_MS
    for index in range(0, len(stream), 500):
        assert len(set(stream.candidates(index))) == counts[index]
    evening = (stream.times_ms // HOUR_MS % 24 == 20).sum() / (stream.times_ms // HOUR_MS % 24 == 8).sum()
    assert evening == pytest.approx(4, rel=0.25)


def test_candidates_are_alive_and_mostly_fresh(make: Make) -> None:
    stream = make()
    ages_h = (stream.times_ms[stream.requests] - START_MS) / HOUR_MS - stream.item_births_h[stream.items - 1]
    assert ages_h.min() >= 0 and ages_h.max() < 36
    assert 4 < np.median(ages_h) < 8
    assert (stream.ages_h - ages_h > -1).all() and (stream.ages_h - ages_h < 1).all()
    second_day = stream.times_ms[stream.requests] >= START_MS + DAY_MS
    assert (stream.item_births_h[stream.items[second_day] - 1] > 24).mean() > 0.5  # unknown to a model of the day before


def test_clicks_are_actions_after_their_request(make: Make) -> None:
    stream = make()
    assert len(stream.clicked) == len(stream.action_times_ms) == stream.clicks.sum()
    assert ((stream.click_delays_ms > 0) == stream.clicks).all()
    for index in range(0, len(stream.clicked), 400):
        (action,) = stream.actions(index)
        request = int(stream.action_requests[index])
        assert action.request_id == stream.request_id(request)
        assert action.item_id in stream.candidates(request)
        assert action.time_ms == stream.action_times_ms[index] > stream.times_ms[request]
    late = (stream.click_delays_ms > 600_000).sum() / stream.clicks.sum()
    assert 0 < late < 0.01


def test_the_oracle_is_above_every_estimate_from_clicks(make: Make) -> None:
    """Estimates that know the clicks of the same rows: the click rate of each item, and of each user in each topic."""
    stream = make()
    assert stream.oracle_auc == pytest.approx(auc(stream.clicks, stream.click_probability))
    pairs = stream.users[stream.requests] * 100 + stream.item_topics[stream.items - 1]
    for keys in (stream.items, stream.users[stream.requests], stream.positions, stream.ages_h, pairs):
        _, groups = np.unique(keys, return_inverse=True)
        other = np.bincount(groups, stream.clicks)[groups] - stream.clicks  # leaves the row's own click out
        rate = (other + 0.08 * 20) / (np.bincount(groups)[groups] - 1 + 20)
        assert oracle_auc(rate, stream.clicks) < stream.oracle_auc - 0.03
    noise = np.random.default_rng(1).normal(0, 0.5, len(stream.items))
    assert oracle_auc(np.log(stream.click_probability) + noise, stream.clicks) < stream.oracle_auc


def test_equal_scores_count_half_in_the_oracle_auc() -> None:
    assert oracle_auc(np.array([0.1, 0.5, 0.5, 0.9]), np.array([False, False, True, True])) == pytest.approx(0.875)
    assert np.isnan(oracle_auc(np.array([0.1, 0.2]), np.array([True, True])))


def spread(stream: ListStream) -> float:
    """Return how much the probability of a (user, item, position) shown again changes, in logits."""
    keys = (stream.users[stream.requests] * 10_000 + stream.items) * 100 + stream.positions
    logits = np.log(stream.click_probability / (1 - stream.click_probability))
    order = np.lexsort((np.arange(len(keys)), keys))
    again = np.diff(keys[order]) == 0
    assert again.sum() > 100
    return float(np.abs(np.diff(logits[order]))[again].max())


def test_without_drift_every_probability_is_stationary(make: Make) -> None:
    still, moving = make(drift=0.0), make()
    assert spread(still) < 1e-9
    assert spread(moving) > 0.5
    days = (still.times_ms[still.requests] - START_MS) // DAY_MS
    assert set(still.items[days == 1]) - set(still.items[days == 0]) <= set(range(1, len(still.item_topics) + 1))
    assert (still.item_births_h <= 0).all() and len(still.item_topics) < len(moving.item_topics)
    first, second = (still.click_probability[days == day].mean() for day in (0, 1))
    assert first == pytest.approx(second, rel=0.05)


def test_drift_is_the_speed_of_change(make: Make) -> None:
    births = [len(make(drift=drift).item_births_h) for drift in (0.0, 0.5, 1.0, 2.0)]
    assert [round(count / 25) for count in births] == pytest.approx([36, 60, 84, 132], abs=6)


@pytest.mark.parametrize("wrong", [{"num_requests": 0, "days": 1.0}, {"num_requests": 5, "days": 0.0}, {"drift": -1.0}])
def test_a_wrong_size_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="num_requests and days must be > 0 and drift >= 0, got"):
        generate(0, **{"num_requests": 5, "days": 1.0, **wrong})  # type: ignore[arg-type]


def test_the_head_of_a_stream_is_its_first_requests(make: Make) -> None:
    stream = make()
    head = stream.head(100)
    assert len(head) == 100 and head.offsets[-1] == len(head.items) == len(head.clicks)
    assert [head.candidates(index) for index in range(100)] == [stream.candidates(index) for index in range(100)]
    assert head.actions(3) == stream.actions(3)
