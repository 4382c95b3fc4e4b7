"""Training steps predict before they learn, learn by the right gradients, and refuse poisoned batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from monolith_py.config import JobConfig
from monolith_py.data.columns import FeatureColumns
from monolith_py.data.examples import ExampleBatch
from monolith_py.errors import PoisonedBatch, WireError
from monolith_py.training import Trainer, auc


def snapshot(trainer: Trainer) -> list[np.ndarray]:
    rows = [table.export_rows()[1] for table in trainer.bags.tables.values()]
    return rows + [value.numpy().copy() for value in trainer.export_dense().values()]


def test_learning_raises_the_progressive_auc(make_job: Callable[..., JobConfig], make_examples: Callable[..., ExampleBatch]) -> None:
    trainer = Trainer(make_job(optimizer={"sparse": {"lr": 0.1}}))
    first = [trainer.step(make_examples(seed)) for seed in range(100)]
    labels = np.concatenate([make_examples(seed).labels["click"] for seed in range(100)])
    scores = np.concatenate(first)[:, 0]
    assert auc(labels[:64], scores[:64]) < 0.9
    assert auc(labels[-320:], scores[-320:]) > 0.99
    assert trainer.num_examples == 3200


def test_the_prediction_is_made_before_the_batch_is_learnt(
    make_job: Callable[..., JobConfig], make_examples: Callable[..., ExampleBatch]
) -> None:
    trainer = Trainer(make_job())
    assert np.ptp(trainer.step(make_examples(0))[:, 0]) < 0.2  # nothing was learnt yet, whatever the labels of this batch


def test_a_new_model_starts_from_the_label_rates_of_its_first_examples(
    make_job: Callable[..., JobConfig], make_examples: Callable[..., ExampleBatch]
) -> None:
    examples = make_examples(0)
    rare = replace(examples, labels={"click": np.eye(1, 32, dtype=np.float32)[0], "like": np.ones(32, np.float32)})
    kept = replace(rare, sample_rates=np.where(rare.labels["click"] == 1, 1.0, 0.1).astype(np.float32))
    for first, rates in ((rare, (2 / 42, 33 / 42)), (kept, (2 / 321, 312 / 321))):
        trainer = Trainer(make_job())
        np.testing.assert_allclose(trainer.step(first).mean(axis=0), rates, rtol=0.25)
        for _ in range(8):
            trainer.step(first)
        bias = trainer.model.head.bias.detach().clone()
        trainer.step(first)
        # From now on the bias moves by the steps of the optimizer, of at most about its rate.
        assert float((trainer.model.head.bias.detach() - bias).abs().max()) < 0.01


def test_rows_learn_from_the_sum_and_towers_from_the_mean(
    make_job: Callable[..., JobConfig], make_examples: Callable[..., ExampleBatch]
) -> None:
    job = make_job(optimizer={"sparse": {"kind": "sgd", "lr": 1.0}})
    examples = make_examples(0)
    once, twice = Trainer(job), Trainer(job)
    for trainer in (once, twice):
        trainer.optimizer.bias_start.add(torch.ones(1000, 2) * 0.5, torch.ones(1000))  # past the examples that set the bias
    before = snapshot(once)
    once.step(examples)
    twice.step(ExampleBatch.concat([examples, examples]))
    start = Trainer(job).bags.tables["user_id"]
    fids, weights = once.bags.tables["user_id"].export_rows()
    origin = start.gather(start.find_or_insert(fids, 0))
    np.testing.assert_allclose(twice.bags.tables["user_id"].export_rows()[1] - origin, 2 * (weights - origin), rtol=2e-3, atol=1e-6)
    moments = [{name: value for name, value in trainer.optimizer.state().items() if ".exp_avg." in name} for trainer in (once, twice)]
    assert len(moments[0]) == len(list(once.model.parameters()))
    for name, moment in moments[0].items():
        torch.testing.assert_close(moment, moments[1][name], rtol=1e-3, atol=1e-6)
    assert len(before)


@pytest.mark.parametrize("sparsity", [{}, {"preset": "dsl_online", "update_interval": 2, "ramp": [1, 4]}], ids=["dense", "sparse"])
def test_a_poisoned_batch_changes_nothing(
    make_job: Callable[..., JobConfig], make_examples: Callable[..., ExampleBatch], sparsity: dict[str, Any]
) -> None:
    trainer = Trainer(make_job(model={"tower": [32, 16], "precision": "fp32", "sparsity": sparsity}))
    trainer.step(make_examples(0))
    before = snapshot(trainer)
    examples = make_examples(0)
    nan = examples.features.dense["age"].copy()
    nan[3, 1] = np.nan
    huge = examples.features.dense["age"].copy()
    huge[:, 1] = 3e38  # whatever the logits become, they are wrong for some rows
    bad_features = FeatureColumns(32, examples.features.sparse, {"age": nan})
    with pytest.raises(WireError, match=r"features\.age must be finite"):
        trainer.step(replace(examples, features=bad_features))
    with pytest.raises(PoisonedBatch):
        trainer.step(replace(examples, features=FeatureColumns(32, examples.features.sparse, {"age": huge})))
    with pytest.raises(WireError, match=r"labels must have every task, got none for \['like'\]"):
        trainer.step(replace(examples, labels={"click": examples.labels["click"]}))
    for one, two in zip(before, snapshot(trainer), strict=True):
        np.testing.assert_array_equal(one, two)
    assert trainer.num_examples == 32


def test_a_batch_whose_gradients_are_finite_but_their_squares_are_not_changes_nothing(
    make_job: Callable[..., JobConfig], make_examples: Callable[..., ExampleBatch]
) -> None:
    trainer = Trainer(make_job())
    trainer.step(make_examples(0))
    examples = make_examples(0)
    before = snapshot(trainer)
    with pytest.raises(PoisonedBatch, match="loss and gradients must be finite"):
        trainer.step(replace(examples, sample_rates=np.full(32, 1e-20, np.float32)))
    scales = trainer.model.get_parameter("scales")
    with torch.no_grad():
        scales.mul_(1e20)  # the rows' gradient has this factor, the dense parameters' have not
    with pytest.raises(PoisonedBatch, match=r"gradient of the pooled rows must be below 2\^48"):
        trainer.step(examples)
    with torch.no_grad():
        scales.div_(1e20)
    for one, two in zip(before, snapshot(trainer), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-6)
    assert trainer.num_examples == 32


def test_gradients_are_clipped_by_the_norm_of_their_mean(
    make_job: Callable[..., JobConfig], make_examples: Callable[..., ExampleBatch]
) -> None:
    trainers = [Trainer(make_job(optimizer={"dense": {"clip_norm": clip, "reference_batch": 32}})) for clip in (None, 1e-3)]
    norms = []
    for trainer in trainers:
        trainer.step(make_examples(0))
        gradients = [p.grad.double() / 32 for p in trainer.model.parameters() if p.grad is not None]
        norms.append(float(sum(gradient.square().sum() for gradient in gradients)) ** 0.5)
    assert norms[0] > 2e-3
    assert norms[1] == pytest.approx(1e-3, rel=1e-4)


def test_dense_parameters_step_once_for_each_reference_batch(
    make_job: Callable[..., JobConfig], make_examples: Callable[..., ExampleBatch]
) -> None:
    config = make_job(optimizer={"dense": {"kind": "sgd", "lr": 0.01, "reference_batch": 64}})
    trainer = Trainer(config)
    before = trainer.export_dense()["head.weight"]
    trainer.step(make_examples(0))
    assert bool((trainer.export_dense()["head.weight"] == before).all())
    trainer.step(make_examples(1))
    assert (trainer.export_dense()["head.weight"] - before).abs().max() > 0


def test_larger_batches_take_proportionally_larger_steps(
    make_job: Callable[..., JobConfig], make_examples: Callable[..., ExampleBatch]
) -> None:
    moved = []
    for reference_batch in (8, 32):
        dense = {"kind": "sgd", "lr": 1.0, "reference_batch": reference_batch}
        trainer = Trainer(make_job(optimizer={"dense": dense}))
        before = trainer.export_dense()["head.weight"]
        trainer.step(make_examples(0))
        moved.append(trainer.export_dense()["head.weight"] - before)
    torch.testing.assert_close(moved[0], 4 * moved[1], rtol=1e-3, atol=1e-6)


def test_lr_scale_multiplies_the_step_of_live_atoms_only(
    make_job: Callable[..., JobConfig], make_examples: Callable[..., ExampleBatch]
) -> None:
    moved = {}
    for lr_scale in (1.0, 4.0):
        model = {"tower": [32, 16], "precision": "fp32", "sparsity": {"preset": "static", "lr_scale": lr_scale}}
        trainer = Trainer(make_job(model=model, optimizer={"dense": {"kind": "sgd", "lr": 1.25, "reference_batch": 32}}))
        before = trainer.export_dense()
        trainer.step(make_examples(0))
        after = trainer.export_dense()
        moved[lr_scale] = {name: after[name] - before[name] for name in ("tower.layers.0.values", "tower.layers.0.bias")}
    # The largest steps are about 4e-3; values near 0.1 are rounded to 1e-8.
    torch.testing.assert_close(moved[4.0]["tower.layers.0.values"], 4 * moved[1.0]["tower.layers.0.values"], rtol=1e-3, atol=1e-6)
    assert moved[1.0]["tower.layers.0.values"].abs().max() > 1e-3
    torch.testing.assert_close(moved[4.0]["tower.layers.0.bias"], moved[1.0]["tower.layers.0.bias"])


@pytest.mark.parametrize("evict_interval_s", [60.0, 600.0])
def test_expired_rows_are_evicted_once_an_interval_of_event_time(
    make_job: Callable[..., JobConfig], make_examples: Callable[..., ExampleBatch], evict_interval_s: float
) -> None:
    features = [{"name": name, "source": "item", "dim": 8, "ttl_s": 1} for name in ("user_id", "tags")]
    trainer = Trainer(make_job(features=features, trainer={"checkpoint_dir": "unused", "evict_interval_s": evict_interval_s}))
    evictions = []
    for minute in range(30):  # one batch a minute; START is 200 s after a multiple of 600 s
        before = trainer.bags.tables["user_id"].stats().evicted
        trainer.step(make_examples(minute))
        if trainer.bags.tables["user_id"].stats().evicted > before:
            evictions.append(trainer.watermark_ms // 1000)
    expected = [time_s for time_s in range(1_700_000_060, 1_700_001_800, 60) if time_s % evict_interval_s < 60]
    assert evictions == expected
