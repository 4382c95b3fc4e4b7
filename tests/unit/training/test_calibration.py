"""The calibration layer: it finds scale and bias, follows a shift of the rate, touches nothing else, and is restored and served."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from monolith_py import training
from monolith_py.config import JobConfig
from monolith_py.data.examples import ExampleBatch
from monolith_py.data.schema import Schema
from monolith_py.model.batch import make_batch
from monolith_py.model.link import Link
from monolith_py.sync import DenseState
from monolith_py.training import Trainer
from monolith_py.training.calibration_rule import CalibrationRule
from monolith_serving.replica.dense_model import DenseModel


def test_scale_and_bias_of_distorted_logits_are_found_at_any_label_rate() -> None:
    generator = torch.Generator().manual_seed(0)
    parameters = torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    rule = CalibrationRule(parameters, 0.02, 256, [Link("sigmoid", 2), Link("log1p")])
    wanted = torch.tensor([[0.5, 1.6], [0.3, -1.0]])
    for _ in range(1500):
        logits = torch.randn(256, 3, generator=generator) * 1.5 + torch.tensor([0.0, -2.5, 0.0])
        chances = torch.sigmoid(logits[:, :2] * wanted[0] + wanted[1])
        labels = torch.cat((torch.bernoulli(chances, generator=generator), torch.full((256, 1), 7.0)), dim=1)
        rule.step(logits, labels, torch.ones(256))
    torch.testing.assert_close(parameters[:, :2], wanted, rtol=0.2, atol=0.2)
    assert parameters[:, 2].tolist() == [1.0, 0.0], "a regression is not calibrated"


@pytest.mark.parametrize("labels", [0.0, 1.0])
def test_batches_that_tell_nothing_of_the_scale_leave_it_in_its_bounds(labels: float) -> None:
    parameters = torch.tensor([[1.0], [0.0]])
    rule = CalibrationRule(parameters, 1.0, 1)
    for _ in range(50):
        rule.step(torch.full((4, 1), -3.0), torch.full((4, 1), labels), torch.ones(4))
        rule.step(torch.zeros(4, 1), torch.full((4, 1), labels), torch.zeros(4))
    assert torch.isfinite(parameters).all() and 0.2 <= float(parameters[0]) <= 5.0


def trained(job: JobConfig, make_examples: Callable[..., ExampleBatch]) -> tuple[Trainer, np.ndarray, np.ndarray]:
    """A trainer after a shift of the labels of click to 1 in 4, with its predictions after it, and the labels."""
    trainer, scores, labels = Trainer(job), [], []
    for seed in range(160):
        examples = make_examples(seed)
        if seed >= 80:
            rare = np.random.default_rng(seed).random(32) < 0.25
            examples = replace(examples, labels={**examples.labels, "click": examples.labels["click"] * rare.astype(np.float32)})
        found = trainer.step(examples)
        if seed >= 100:
            scores.append(found[:, 0])
            labels.append(examples.labels["click"])
    return trainer, np.concatenate(scores), np.concatenate(labels)


def test_a_job_with_it_learns_the_same_model_and_serves_calibrated_scores(
    make_job: Callable[..., JobConfig], make_examples: Callable[..., ExampleBatch]
) -> None:
    settings = {"tower": [16, 8], "precision": "fp32"}
    plain, scores, labels = trained(make_job(model=settings), make_examples)
    job = make_job(model={**settings, "calibration": "platt", "calibration_rate": 0.2})
    other, calibrated, _ = trained(job, make_examples)
    for name, value in plain.export_dense().items():
        assert torch.equal(value, other.export_dense()[name]), "the model itself does not see its calibration"
    off, less_off = (abs(one.mean() / labels.mean() - 1) for one in (scores, calibrated))
    assert less_off < off / 2
    batch = make_batch(make_examples(1).features, other.schema)
    other.model.eval()
    other.bags.eval()
    with torch.no_grad():
        pooled = other.bags(batch.sparse()).values()
        expected = other.model(pooled, torch.from_numpy(batch.dense)).numpy()
        raw = plain.model.eval()(pooled, torch.from_numpy(batch.dense)).numpy()
    served = DenseModel(Schema.of(job), job.model, DenseState.of(other.export_dense())).logits(pooled.numpy(), batch.dense)
    np.testing.assert_allclose(served, expected, rtol=1e-4, atol=1e-5)
    assert np.abs(served - raw).max() > 0.05


def test_the_figure_of_the_same_name_stays_a_function() -> None:
    assert training.calibration([1.0, 0.0], [0.5, 0.5]) == 1.0


@pytest.mark.parametrize("mean", [-11.5, -9.0])
def test_the_first_positives_of_a_rare_task_leave_calibrated_logits_where_they_are(mean: float) -> None:
    generator = torch.Generator().manual_seed(0)
    parameters = torch.tensor([[1.0], [0.0]])
    rule = CalibrationRule(parameters, 0.02, 256)
    for _ in range(1500):
        logits = torch.randn(256, 1, generator=generator) * 0.7 + mean
        rule.step(logits, torch.bernoulli(torch.sigmoid(logits), generator=generator), torch.ones(256))
        assert abs(float(parameters[0] * mean + parameters[1]) - mean) < 1.0
