"""The summed loss and its gradient, against the formulas in numpy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from monolith_py.data.examples import ExampleBatch, ExampleKind
from monolith_py.training import TaskLoss

WEIGHTS = np.array([1.0, 0.5])


def gradient(examples: ExampleBatch, logits: np.ndarray) -> np.ndarray:
    loss = TaskLoss(("click", "like"), (1.0, 0.5))
    tensor = torch.tensor(logits, dtype=torch.float32, requires_grad=True)
    loss(tensor, loss.labels(examples), examples).backward()
    assert tensor.grad is not None
    return tensor.grad.numpy()


def test_an_example_kept_with_rate_r_pulls_with_weight_one_over_r(make_examples: Callable[..., ExampleBatch]) -> None:
    generator = np.random.default_rng(1)
    rates = generator.uniform(0.1, 1.0, 32).astype(np.float32)
    examples = replace(make_examples(), sample_rates=rates)
    logits = generator.normal(size=(32, 2))
    labels = np.stack([examples.labels["click"], examples.labels["like"]], axis=1)
    expected = (1 / (1 + np.exp(-logits)) - labels) * WEIGHTS / rates[:, None]
    np.testing.assert_allclose(gradient(examples, logits), expected, rtol=1e-4, atol=1e-6)


def test_a_retraction_takes_the_negative_back_and_teaches_the_positive(make_examples: Callable[..., ExampleBatch]) -> None:
    """Whatever the rate at which the negative was sampled: a positive always has the weight 1."""
    examples = replace(make_examples(num=4), sample_rates=np.array([1.0, 0.5, 0.1, 0.01], np.float32))
    kinds = np.full(4, ExampleKind.RETRACTION, np.uint8)
    labels = {"click": np.array([1, 0, 1, 0], np.float32), "like": np.array([0, 1, 1, 0], np.float32)}
    logits = np.random.default_rng(2).normal(size=(4, 2))
    negative = gradient(replace(examples, labels={"click": np.zeros(4, np.float32), "like": np.zeros(4, np.float32)}), logits)
    late = gradient(replace(examples, labels=labels, kinds=kinds), logits)
    at_once = gradient(replace(examples, labels=labels, sample_rates=np.ones(4, np.float32)), logits)
    np.testing.assert_allclose(negative + late, at_once, atol=1e-5)
