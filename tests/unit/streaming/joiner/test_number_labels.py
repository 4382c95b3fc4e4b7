"""Labels that are numbers or classes: from actions to examples, whatever the order of the actions."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pytest

from monolith_py.config import JobConfig, TaskConfig
from monolith_py.data.label_bits import NUMBER_BITS, LabelBits
from monolith_py.io import MemoryLog

World = Any
TASKS = (
    TaskConfig(name="click", action="click"),
    TaskConfig(name="seconds", action="watch", kind="regression"),
    TaskConfig(name="what", kind="multiclass", classes=("watch", "share")),
)


@pytest.fixture
def job(world: World) -> JobConfig:
    job: JobConfig = world.job().model_copy(update={"tasks": TASKS})
    return job


def labels_of(world: World, job: JobConfig, log: MemoryLog) -> list[tuple[int, dict[str, float]]]:
    return [
        (int(batch.kinds[row]), {name: float(values[row]) for name, values in batch.labels.items()})
        for batch in world.batches(job, log)
        for row in range(len(batch))
    ]


def test_a_number_is_the_greatest_value_and_a_class_each_action_that_happened(world: World, job: JobConfig) -> None:
    values = [30.0, 0.1, 412.5]
    for order in permutations(values):
        log = world.log(job)
        actions = [world.action("r", "watch", 5, value=value) for value in order]
        world.append(job, log, world.impression("r"), *actions, world.action("r", "share", 6), world.action("r", "watch", 7, value=0.0))
        world.join(job, log)
        ((kind, labels),) = labels_of(world, job, log)
        assert kind == 0 and labels["click"] == 0.0 and labels["seconds"] == pytest.approx(412.5, rel=5e-4)
        assert (labels["what.watch"], labels["what.share"]) == (1.0, 1.0)


def test_a_late_number_retracts_a_zero_and_changes_no_other_number(world: World, job: JobConfig) -> None:
    log = world.log(job)
    world.append(job, log, world.impression("none"), world.impression("some"), world.action("some", "watch", 5, value=2.0))
    world.join(job, log)
    world.append(job, log, world.action("none", "watch", 150, value=7.0), world.action("some", "watch", 150, value=9.0))
    world.join(job, log)
    found = labels_of(world, job, log)
    assert [(kind, labels["seconds"]) for kind, labels in found] == [(0, 0.0), (0, 2.0), (1, 7.0)]


def test_numbers_keep_their_order_and_eleven_bits() -> None:
    bits = LabelBits((1, NUMBER_BITS, 1))
    values = np.sort(np.exp(np.random.default_rng(0).uniform(-20, 21, 4000))).tolist()
    codes = bits.of_values(values, 1)
    assert codes == sorted(codes)
    np.testing.assert_allclose(bits.values(np.array(codes, np.uint64), 1), values, rtol=2.0**-11)
    assert bits.of_values([0.0, -1.0], 1) == [0, 0] and bits.of_values([1e-30, 1e38], 1) == [2, bits.mask(1)]


def test_numbers_that_the_log_has_are_read_back_as_they_were() -> None:
    bits = LabelBits((NUMBER_BITS,))
    codes = list(range(1, 1 << NUMBER_BITS, 97))
    values = bits.values(np.array(codes, np.uint64), 0)
    assert bits.of_values(values.tolist(), 0) == codes
