"""Negative sampling is a pure function of the ids and the rate."""

from __future__ import annotations

from typing import Any

import pytest

from monolith_py.data.examples import ExampleKind
from monolith_streaming.joiner.sampling import is_kept

World = Any


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5, 0.9])
def test_the_kept_share_is_the_rate(rate: float) -> None:
    num_kept = sum(is_kept(f"request-{index}", item, rate) for index in range(2000) for item in range(10))
    deviation = (20_000 * rate * (1 - rate)) ** 0.5
    assert abs(num_kept - 20_000 * rate) < 4 * deviation


def test_a_higher_rate_keeps_a_superset() -> None:
    for index in range(500):
        kept = [is_kept(f"r{index}", 1, rate) for rate in (0.05, 0.2, 0.5, 0.8, 1.0)]
        assert kept == sorted(kept)
        assert kept[-1]


def test_the_choice_is_pinned() -> None:
    """A joiner that starts again, on another machine or another version, must keep the same examples."""
    kept = "".join(str(int(is_kept(f"r{index}", index * 7, 0.5))) for index in range(32))
    assert kept == "00000010011011101110000010111101"


def test_every_candidate_is_chosen_for_itself() -> None:
    num_kept = [sum(is_kept(f"r{index}", item, 0.5) for item in range(64)) for index in range(50)]
    assert min(num_kept) > 0 and max(num_kept) < 64
    assert len(set(num_kept)) > 5


def test_kept_negatives_carry_the_rate_and_positives_one(world: World) -> None:
    job = world.job(negative_rate=0.25)
    log = world.log(job)
    for index in range(200):
        world.append(job, log, world.impression(f"r{index}", items=(1, 2)), world.action(f"r{index}", "click", 5, item=2))
    world.join(job, log)
    rows = list(world.examples(job, log))
    assert {rate for _, item, _, _, rate, *_ in rows if item == 2} == {1.0}
    kept = {request_id: rate for request_id, item, _, _, rate, *_ in rows if item == 1}
    assert set(kept.values()) == {0.25}
    assert set(kept) == {f"r{index}" for index in range(200) if is_kept(f"r{index}", 1, 0.25)}


def test_a_late_positive_of_a_negative_that_was_sampled_away_is_a_whole_example(world: World) -> None:
    """There is nothing to take back, so a retraction would teach the wrong thing."""
    job = world.job(negative_rate=0.25)
    log = world.log(job)
    away = next(f"r{index}" for index in range(100) if not is_kept(f"r{index}", 1, 0.25))
    kept = next(f"r{index}" for index in range(100) if is_kept(f"r{index}", 1, 0.25))
    for request_id in (away, kept):
        world.append(job, log, world.impression(request_id), world.action(request_id, "click", 150), world.action(request_id, "like", 160))
    world.join(job, log)
    got = world.labels(job, log)
    assert [row[1:] for row in got if row[0] == away] == [(1, "LABELLED", (1, 0)), (1, "RETRACTION", (0, 1))]
    assert [row[1:] for row in got if row[0] == kept] == [(1, "LABELLED", (0, 0)), (1, "RETRACTION", (1, 0)), (1, "RETRACTION", (0, 1))]
    rates = {(request_id, kind, labels): rate for request_id, _, kind, labels, rate, *_ in world.examples(job, log) if any(labels)}
    retraction = int(ExampleKind.RETRACTION)
    assert rates.pop((kept, retraction, (1, 0))) == 0.25  # takes back a negative of weight 4
    assert rates.keys() >= {(kept, retraction, (0, 1)), (away, retraction, (0, 1))} and set(rates.values()) == {1.0}
