"""World of the generator: items, tastes, walks and the true click probability. `listwise` documents every formula and parameter.

Letters: n requests, C candidates, I items, K topics. Times and ages are hours of world time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

NUM_USERS, NUM_TOPICS, NUM_PUBLISHERS = 3000, 12, 40

_LIFE_H, _BIRTHS_PER_H = 36.0, 25.0
_TOPIC_EXPONENT, _PUBLISHER_EXPONENT = 0.5, 0.7
_EXPOSURE_HALF_LIFE_H, _EXPOSURE_STD = 6.0, 0.7
_BASE = -2.05
_TASTE_STD, _PUBLISHER_STD = 0.8, 0.3
_QUALITY_STD, _QUALITY_WALK_STD, _QUALITY_RELAXATION_H, _QUALITY_STEP_H = 0.7, 0.4, 6.0, 0.25
_TREND_STD, _TREND_RELAXATION_H, _TREND_STEP_H = 0.5, 12.0, 1 / 12
_BREAKS_PER_H, _BREAK_RISE_H, _BREAK_HALF_LIFE_H, _BREAK_HEIGHT = 0.25, 1 / 12, 2.0, (1.0, 2.0)
_CLICK_HALF_LIFE_H = 8.0
_POSITION = 0.3
_REQUESTS_AT_ONCE = 256

Int64Array = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Shown:
    """Candidates as shown: one row each."""

    world_h: FloatArray  # (C,)
    users: Int64Array  # (C,) from 0
    items: Int64Array  # (C,) from 0
    positions: Int64Array  # (C,) from 0


@dataclass(frozen=True)
class World:
    """Items, tastes and walks of one seed. Items are sorted by birth."""

    births_h: FloatArray  # (I,)
    topics: Int64Array  # (I,)
    publishers: Int64Array  # (I,)
    exposures: FloatArray  # (I,) logarithms of weights
    quality: FloatArray  # (I, steps) by age
    tastes: FloatArray  # (users, K)
    publisher_effects: FloatArray  # (publishers,)
    trend: FloatArray  # (steps, K) by time, from 0
    breaks: list[tuple[float, int, float]]  # time, topic, height

    def click_probability(self, shown: Shown) -> FloatArray:
        """Return the true click probability of each candidate: float64 (C,)."""
        topics = self.topics[shown.items]
        ages_h = shown.world_h - self.births_h[shown.items]
        logits = (
            _BASE
            + self.tastes[shown.users, topics]
            + self.publisher_effects[self.publishers[shown.items]]
            + self.quality_at(shown.items, ages_h)
            + self.trend_at(topics, shown.world_h)
            - np.log(2.0) * ages_h / _CLICK_HALF_LIFE_H
            - _POSITION * np.log1p(shown.positions)
        )
        probabilities: FloatArray = 1.0 / (1.0 + np.exp(-logits))
        return probabilities

    def quality_at(self, items: Int64Array, ages_h: FloatArray) -> FloatArray:
        """Return the quality of each item (C,) at its age: float64 (C,)."""
        step, part = _step(ages_h, _QUALITY_STEP_H)
        values: FloatArray = (1 - part) * self.quality[items, step] + part * self.quality[items, step + 1]
        return values

    def trend_at(self, topics: Int64Array, world_h: FloatArray) -> FloatArray:
        """Return the popularity of each topic (C,) at its time (C,), breaks included: float64 (C,)."""
        step, part = _step(world_h, _TREND_STEP_H)
        trend: FloatArray = (1 - part) * self.trend[step, topics] + part * self.trend[step + 1, topics]
        for at_h, topic, height in self.breaks:
            since_h = world_h - at_h
            rise = np.clip(since_h / _BREAK_RISE_H, 0.0, 1.0)
            fall = 0.5 ** (np.maximum(since_h - _BREAK_RISE_H, 0.0) / _BREAK_HALF_LIFE_H)
            trend += (topics == topic) * height * rise * fall
        return trend


def make_world(generator: np.random.Generator, end_h: float) -> World:
    """Return a world from 36 h before time 0 to `end_h`."""
    births_h = np.sort(generator.uniform(-_LIFE_H, end_h, generator.poisson(_BIRTHS_PER_H * (end_h + _LIFE_H))))
    num_items = len(births_h)
    walk = _walk(generator, num_items, _QUALITY_WALK_STD, _QUALITY_STEP_H / _QUALITY_RELAXATION_H, _steps(_LIFE_H, _QUALITY_STEP_H))
    trend = _walk(generator, NUM_TOPICS, _TREND_STD, _TREND_STEP_H / _TREND_RELAXATION_H, _steps(end_h, _TREND_STEP_H))
    num_breaks = generator.poisson(_BREAKS_PER_H * end_h)
    breaks = zip(
        generator.uniform(0, end_h, num_breaks).tolist(),
        generator.integers(0, NUM_TOPICS, num_breaks).tolist(),
        generator.uniform(*_BREAK_HEIGHT, num_breaks).tolist(),
        strict=True,
    )
    return World(
        births_h=births_h,
        topics=zipf(generator, NUM_TOPICS, _TOPIC_EXPONENT, num_items),
        publishers=zipf(generator, NUM_PUBLISHERS, _PUBLISHER_EXPONENT, num_items),
        exposures=generator.normal(0, _EXPOSURE_STD, num_items),
        quality=generator.normal(0, _QUALITY_STD, (num_items, 1)) + walk.T,
        tastes=generator.normal(0, _TASTE_STD, (NUM_USERS, NUM_TOPICS)),
        publisher_effects=generator.normal(0, _PUBLISHER_STD, NUM_PUBLISHERS),
        trend=trend,
        breaks=list(breaks),
    )


def draw_candidates(generator: np.random.Generator, world: World, world_h: FloatArray, counts: Int64Array) -> Int64Array:
    """Return the items of n requests at sorted times (n,), `counts` (n,) different ones each, by position: int64 (C,)."""
    drawn = []
    for start in range(0, len(world_h), _REQUESTS_AT_ONCE):
        now_h, wanted = world_h[start : start + _REQUESTS_AT_ONCE], counts[start : start + _REQUESTS_AT_ONCE]
        low, high = np.searchsorted(world.births_h, [now_h[0] - _LIFE_H, now_h[-1]])
        ages_h = now_h[:, None] - world.births_h[low:high]  # (requests, items)
        keys = world.exposures[low:high] - np.log(2.0) * ages_h / _EXPOSURE_HALF_LIFE_H + generator.gumbel(size=ages_h.shape)
        keys[(ages_h < 0) | (ages_h >= _LIFE_H)] = -np.inf
        best = np.argsort(-keys, axis=1)[:, : int(wanted.max())]
        drawn.append(low + best[np.arange(best.shape[1]) < wanted[:, None]])
    return np.concatenate(drawn).astype(np.int64)


def zipf(generator: np.random.Generator, num_values: int, exponent: float, count: int) -> Int64Array:
    """Return `count` values from 0 to num_values - 1; value k has a share proportional to (k + 1) ** -exponent."""
    shares = np.arange(1, num_values + 1) ** -exponent
    values: Int64Array = generator.choice(num_values, count, p=shares / shares.sum())
    return values


def _walk(generator: np.random.Generator, num: int, std: float, step: float, num_steps: int) -> FloatArray:
    """Return `num` stationary Ornstein-Uhlenbeck walks, `step` of their relaxation time apart: float64 (num_steps, num)."""
    keep = np.exp(-step)
    noise = generator.normal(0, std, (num_steps, num))
    for row in range(1, num_steps):
        noise[row] = keep * noise[row - 1] + np.sqrt(1 - keep**2) * noise[row]
    return noise


def _steps(length_h: float, step_h: float) -> int:
    """Return the number of grid points for times up to `length_h`, with one beyond."""
    return int(length_h / step_h) + 2


def _step(at_h: FloatArray, step_h: float) -> tuple[Int64Array, FloatArray]:
    """Return the grid point before each time, and the part of the step beyond it."""
    place = at_h / step_h
    step = place.astype(np.int64)
    return step, place - step
