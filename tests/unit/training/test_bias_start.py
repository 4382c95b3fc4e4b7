"""A new model starts from the label rates of its first examples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from monolith_py.config import JobConfig
from monolith_py.data.examples import ExampleBatch
from monolith_py.errors import PoisonedBatch
from monolith_py.training import Trainer
from monolith_py.training.bias_start import BiasStart


def rates(start: BiasStart) -> list[float]:
    return [float(rate) for rate in torch.sigmoid(start.bias)]


@pytest.mark.parametrize("sizes", [[300], [1] * 300, [7, 100, 3, 190]])
def test_the_bias_depends_on_the_examples_and_not_on_their_batches(sizes: list[int]) -> None:
    generator = np.random.default_rng(0)
    labels = torch.from_numpy((generator.random((300, 2)) < [0.02, 0.6]).astype(np.float32))
    weights = torch.from_numpy(generator.choice([1.0, 4.0], 300).astype(np.float32))
    start = BiasStart(torch.zeros(2), num_examples=300)
    for batch in torch.split(torch.arange(300), sizes):
        start.add(labels[batch], weights[batch])
    expected = ((weights @ labels + 1) / (weights.sum() + 10)).tolist()
    assert rates(start) == pytest.approx(expected, rel=1e-5)
    start.add(torch.ones(50, 2), torch.ones(50))
    assert rates(start) == pytest.approx(expected, rel=1e-5), "the first examples have been seen"


def test_the_start_survives_a_checkpoint() -> None:
    one, other = BiasStart(torch.zeros(1), 100), BiasStart(torch.zeros(1), 100)
    one.add(torch.ones(30, 1), torch.ones(30))
    other.bias.copy_(one.bias)
    other.restore(one.state())
    for start in (one, other):
        start.add(torch.zeros(60, 1), torch.ones(60))
    assert rates(one) == rates(other) == pytest.approx([31 / 100])


def test_a_batch_that_is_not_learnt_does_not_count(make_job: Callable[..., JobConfig], make_examples: Callable[..., ExampleBatch]) -> None:
    trainer, examples = Trainer(make_job(optimizer={"dense": {"reference_batch": 256}})), make_examples(0)
    trainer.step(examples)
    before, bias = trainer.optimizer.bias_start.state(), trainer.model.head.bias.detach().clone()
    poisoned = replace(examples, sample_rates=np.full(32, 1e-45, np.float32))
    with pytest.raises(PoisonedBatch):
        trainer.step(poisoned)
    assert bool((trainer.optimizer.bias_start.state()["sums"] == before["sums"]).all())
    assert bool((trainer.model.head.bias == bias).all())
