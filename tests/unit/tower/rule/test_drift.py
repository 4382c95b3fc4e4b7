"""The drift test fires once, soon after a lasting rise of the loss, and never on a stationary noisy stream."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from monolith_py.tower.rule.drift import DriftTest


def losses(generator: np.random.Generator, num_batches: int, batch: int, error: float = 0.0) -> NDArray[np.float64]:
    """Mean log losses of batches of clicks; the model's logits are wrong by a normal error of this size."""
    logits = generator.normal(-1, 1.5, (num_batches, batch))
    clicks = generator.random(logits.shape) < 1 / (1 + np.exp(-logits))
    said = logits + error * generator.normal(size=logits.shape)
    return np.asarray(np.logaddexp(0, np.where(clicks, -said, said)).mean(axis=1))


def fires(test: DriftTest, values: NDArray[np.float64], batch: int) -> list[int]:
    return [step for step, loss in enumerate(values.tolist()) if test.update(loss, batch)]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("batch", [16, 256])
def test_it_is_silent_for_20_000_batches_of_a_stream_that_stays(batch: int, seed: int) -> None:
    assert fires(DriftTest(), losses(np.random.default_rng(seed), 20_000, batch), batch) == []


@pytest.mark.parametrize("seed", range(5))
def test_it_is_silent_where_batches_resemble_their_neighbours(seed: int) -> None:
    noise, level = np.random.default_rng(seed).normal(0, 0.03, 20_000), 0.0
    values = np.array([level := 0.3 * level + math.sqrt(1 - 0.3**2) * one for one in noise.tolist()])
    assert fires(DriftTest(), 0.55 + values, 256) == []


def test_it_is_silent_where_chance_alone_makes_a_rise_of_its_size() -> None:
    """A batch varies by a fifth of the loss: the fast mean passes the slow one by 8 % many times."""
    values = 0.5 + np.random.default_rng(0).normal(0, 0.1, 20_000)
    assert fires(DriftTest(), values, 256) == []


def test_a_rise_while_the_slow_mean_is_still_young_is_no_drift() -> None:
    values = np.where(np.arange(1000) < 50, 0.4, 0.6) + np.random.default_rng(0).normal(0, 0.003, 1000)
    assert fires(DriftTest(), values, 256) == []


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("batch", "batches_until"), [(32, 300), (256, 30), (2048, 15)])
def test_it_fires_once_soon_after_a_rise_by_a_third(batch: int, batches_until: int, seed: int) -> None:
    generator, test = np.random.default_rng(seed), DriftTest()
    assert fires(test, losses(generator, 250 * max(1, 256 // batch), batch), batch) == []
    after = fires(test, losses(generator, 1000 * max(1, 256 // batch), batch, error=1.5), batch)
    assert len(after) == 1 and after[0] < batches_until


def test_it_fires_again_at_a_second_rise() -> None:
    generator = np.random.default_rng(1)
    values = np.concatenate([losses(generator, 600, 256, error) for error in (0.0, 1.5, 3.0)])
    assert [step // 600 for step in fires(DriftTest(), values, 256)] == [1, 2]


def test_it_is_silent_where_the_loss_falls_or_rises_by_too_little() -> None:
    generator = np.random.default_rng(2)
    noise = generator.normal(0, 0.003, 3000)
    assert fires(DriftTest(), np.linspace(0.9, 0.4, 3000) + noise, 256) == []
    assert fires(DriftTest(), np.where(np.arange(3000) < 1500, 0.5, 0.53) + noise, 256) == []
    assert len(fires(DriftTest(rise=0.02), np.where(np.arange(3000) < 1500, 0.5, 0.53) + noise, 256)) == 1


def test_one_small_wild_batch_is_no_drift() -> None:
    test = DriftTest()
    assert fires(test, losses(np.random.default_rng(3), 1000, 256), 256) == []
    assert not test.update(3.0, 4)


def test_the_chance_it_allows_for_is_that_of_the_difference() -> None:
    """Recomputed from the definition: weights of all batches written out."""
    generator = np.random.default_rng(4)
    sizes, test = generator.integers(1, 600, 150), DriftTest()
    values = 0.5 + generator.normal(size=150) / np.sqrt(sizes)
    for loss, size in zip(values.tolist(), sizes.tolist(), strict=True):
        test.update(loss, size)
    parts = np.minimum(1, sizes / 256)
    ages = np.append(np.cumsum(parts[::-1])[::-1][1:], 0.0)
    fast, slow = sizes * 0.9**ages, sizes * 0.99**ages
    state = test.state()
    assert state["fast"] / state["fast_weight"] == pytest.approx(np.average(values, weights=fast))
    assert state["slow"] / state["slow_weight"] == pytest.approx(np.average(values, weights=slow))
    share = ((fast / fast.sum() - slow / slow.sum()) ** 2 / sizes).sum()
    made = state["fast_fast"] / fast.sum() ** 2 - 2 * state["fast_slow"] / fast.sum() / slow.sum() + state["slow_slow"] / slow.sum() ** 2
    assert made == pytest.approx(share)


def test_it_goes_on_bit_equal_from_its_state() -> None:
    generator = np.random.default_rng(5)
    values = np.concatenate([losses(generator, 700, 256), losses(generator, 700, 256, 1.5)])
    whole = DriftTest()
    expected = fires(whole, values, 256)
    for cut in (0, 1, 450, 702, 900):
        first, second = DriftTest(), DriftTest()
        before = fires(first, values[:cut], 256)
        second.restore(json.loads(json.dumps(first.state())))
        assert before + [cut + step for step in fires(second, values[cut:], 256)] == expected
        assert second.state() == whole.state()


def test_wrong_arguments_are_told() -> None:
    test = DriftTest()
    with pytest.raises(ValueError, match="loss must be finite, got nan"):
        test.update(math.nan, 1)
    with pytest.raises(ValueError, match="num_examples must be >= 1, got 0"):
        test.update(0.5, 0)
    with pytest.raises(ValueError, match=r"rise must be > 0, got 0\.0"):
        DriftTest(rise=0.0)
    with pytest.raises(ValueError, match="state must have"):
        test.restore({"fast": 0.5})
