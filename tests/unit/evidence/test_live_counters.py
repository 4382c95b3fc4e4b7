"""The counters that the evidence feeds are those of the joiner, of all examples before."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy as np

from monolith_py.config import CounterConfig
from monolith_py.data.counters import LiveCounters


def test_counters_say_what_was_known_before_each_example(evidence: Callable[[str], ModuleType]) -> None:
    generator = np.random.default_rng(3)
    keys = generator.integers(0, 7, 200)
    outcomes = tuple(generator.random(200) < rate for rate in (0.3, 0.6))
    got = evidence("streams").live_counters(keys, outcomes)
    counters = LiveCounters(CounterConfig(), "evidence:", ("click", "like"))
    counts = {key: np.zeros((2, 2), np.int64) for key in range(7)}
    for index, key in enumerate(keys):
        want = counters.values(counters.encode(counts[key]))
        np.testing.assert_allclose(got[index], want, rtol=1e-6)
        counts[key] += [[1, int(outcome[index])] for outcome in outcomes]
