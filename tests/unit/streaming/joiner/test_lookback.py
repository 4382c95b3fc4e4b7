"""The place from which a state can be built again follows the oldest request that is not forgotten."""

from __future__ import annotations

import random

from monolith_py._core import JoinerLookback
from monolith_streaming.joiner.position import OpenPlace
from monolith_streaming.joiner.watermark import InputTopic

BEGINNING = OpenPlace(0, 0, 0, 0)


def test_the_place_is_never_after_a_record_that_is_needed_and_stays_close_to_it() -> None:
    rng, remembered_ms = random.Random(1), 6_400
    lookback = JoinerLookback(BEGINNING, 0, remembered_ms)
    needed: list[tuple[InputTopic, int, int]] = []
    offsets = [0, 0]
    for step in range(1, 3_000):
        now_ms = step * 10
        for _ in range(rng.randint(0, 5)):
            input_topic = rng.choice(list(InputTopic))
            needed.append((input_topic, offsets[input_topic], now_ms + remembered_ms - rng.randint(0, 50)))
            lookback.note(*needed[-1])
            offsets[input_topic] += 1
        place = OpenPlace(*lookback.commit(OpenPlace(offsets[0], offsets[1], step, step), now_ms))
        needed = [entry for entry in needed if entry[2] > now_ms]
        assert all(place[input_topic] <= offset for input_topic, offset, _ in needed)
        assert place.examples == place.step
        if step > 1_000:
            assert place.examples >= step - 640 - 30


def test_an_older_record_that_is_needed_longer_keeps_its_interval() -> None:
    lookback = JoinerLookback(BEGINNING, 0, 640)
    for step in range(1, 10):
        lookback.note(InputTopic.ACTIONS, step, 100 * step)
        lookback.note(InputTopic.ACTIONS, step, 100 * step + 50)
        lookback.commit(OpenPlace(0, step + 1, step, step), 0)
    lookback.note(InputTopic.ACTIONS, 3, 5_000)
    assert OpenPlace(*lookback.commit(OpenPlace(0, 11, 10, 10), 4_999)).actions == 3
    assert OpenPlace(*lookback.commit(OpenPlace(0, 11, 11, 11), 5_000)).actions == 10
