"""Regressions and multiclass tasks beside binary ones: losses by their formulas, start of the bias, figures, and learning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from monolith_py.config import JobConfig, TaskConfig
from monolith_py.data.examples import ExampleBatch, ExampleKind
from monolith_py.errors import ConfigError, WireError
from monolith_py.training import TaskLoss, Trainer
from monolith_py.training.metrics import class_figures, regression_errors

TASKS: list[dict[str, Any]] = [
    {"name": "what", "kind": "multiclass", "classes": ("click", "like"), "weight": 2.0},
    {"name": "click", "action": "click"},
    {"name": "seconds", "kind": "regression", "action": "watch"},
]
NAMES = ("what.click", "what.like", "click", "seconds")


def settings(**changes: Any) -> list[TaskConfig]:
    return [TaskConfig(**TASKS[0]), TaskConfig(**TASKS[1]), TaskConfig(**TASKS[2], **changes)]


def with_labels(examples: ExampleBatch) -> ExampleBatch:
    """The examples with labels for all tasks: the watch time of a user is that of its number."""
    click, like, users = examples.labels["click"], examples.labels["like"], examples.features.sparse["user_id"].fids
    seconds = (10.0 * (users % 5)).astype(np.float32)
    return replace(examples, labels={"what.click": click, "what.like": like, "click": click, "seconds": seconds})


def losses(logits: np.ndarray, labels: np.ndarray, huber: bool) -> np.ndarray:
    """Losses of each example, (n, tasks), by the formulas."""
    full = np.concatenate([np.zeros((len(logits), 1)), logits[:, :2]], axis=1)
    strongest = np.where(labels[:, 1] > 0, 2, np.where(labels[:, 0] > 0, 1, 0))
    of_class = np.log(np.exp(full).sum(axis=1)) - full[np.arange(len(full)), strongest]
    binary = np.log1p(np.exp(logits[:, 2])) - logits[:, 2] * labels[:, 2]
    error = np.abs(logits[:, 3] - np.log1p(labels[:, 3]))
    number = np.where(error < 0.5, error**2 / 2, 0.5 * (error - 0.25)) if huber else error**2 / 2
    return np.stack([2.0 * of_class, binary, number], axis=1)


@pytest.mark.parametrize("huber", [False, True])
def test_losses_follow_their_formulas_with_sampling_and_retractions(make_examples: Callable[..., ExampleBatch], huber: bool) -> None:
    generator = np.random.default_rng(3)
    kinds = np.where(np.arange(32) % 4 == 0, ExampleKind.RETRACTION, ExampleKind.LABELLED).astype(np.uint8)
    rates = generator.uniform(0.1, 1.0, 32).astype(np.float32)
    examples = replace(with_labels(make_examples()), sample_rates=rates, kinds=kinds)
    loss = TaskLoss(NAMES, (2.0, 1.0, 1.0), settings(loss="huber", huber_delta=0.5) if huber else settings())
    logits, labels = generator.normal(size=(32, 4)), loss.labels(examples)
    raw = np.stack([examples.labels[name] for name in NAMES], axis=1)
    new, none = losses(logits, raw, huber).sum(axis=1), losses(logits, np.zeros_like(raw), huber).sum(axis=1)
    expected = np.where(kinds == ExampleKind.RETRACTION, new - none / rates, new / rates).sum()
    got = loss(torch.tensor(logits, dtype=torch.float32), labels, examples)
    np.testing.assert_allclose(float(got), expected, rtol=1e-4)
    assert (labels[:, :2].sum(dim=1) <= 1).all() and labels[:, 0].sum() < raw[:, 0].sum(), "only the strongest class has a label"


def test_a_label_that_is_no_bit_is_refused_unless_it_is_a_number(make_examples: Callable[..., ExampleBatch]) -> None:
    examples = with_labels(make_examples())
    loss = TaskLoss(NAMES, (1.0, 1.0, 1.0), settings())
    for name in NAMES[:3]:
        wrong = replace(examples, labels={**examples.labels, name: np.full(32, 0.5, np.float32)})
        with pytest.raises(WireError, match=r"must be 0 or 1 unless of a regression, got 0\.5"):
            loss.labels(wrong)


def test_all_kinds_are_learnt_together_and_have_their_figures(
    make_job: Callable[..., JobConfig], make_examples: Callable[..., ExampleBatch]
) -> None:
    trainer = Trainer(
        make_job(
            tasks=[{**TASKS[0], "classes": ["click", "like"]}, *TASKS[1:]],
            optimizer={"sparse": {"lr": 0.2}, "dense": {"lr": 3e-3, "reference_batch": 32}},
        )
    )
    first = trainer.step(with_labels(make_examples(0)))
    assert first.shape == (32, 4) and (first[:, :2].sum(axis=1) < 1).all()
    labels = with_labels(make_examples(0)).labels
    weights = np.expm1(np.mean(np.append(np.log1p(labels["seconds"]), np.full(10, 0.1))))
    assert abs(float(np.median(first[:, 3])) / weights - 1) < 0.5, "the bias starts from the mean of the logarithms"
    for seed in range(1, 120):
        trainer.step(with_labels(make_examples(seed)))
    scores = trainer.step(with_labels(make_examples(500)))
    users = make_examples(500).features.sparse["user_id"].fids
    assert np.abs(scores[:, 3] - 10.0 * (users % 5)).mean() < 4
    figures = {quality.task: quality for quality in trainer.report()}
    assert set(figures) == {*NAMES, "what"}
    assert figures["seconds"].r2 > 0.2 and figures["seconds"].fault() is None and "R2" in str(figures["seconds"])
    assert figures["what"].accuracy > 0.5 and figures["what"].logloss < 1.1 and "accuracy" in str(figures["what"])
    assert figures["click"].auc > 0.9 and figures["what.click"].auc > 0.6


def test_figures_by_hand() -> None:
    rmse, mae, r2 = regression_errors([1.0, 3.0], [1.0, 1.0], [1.0, 3.0])
    assert (rmse, mae) == (pytest.approx(3**0.5), 1.5) and r2 == pytest.approx(1 - 3 / 0.75)
    logloss, accuracy = class_figures([[1, 0], [0, 0]], [[0.5, 0.3], [0.6, 0.1]])
    assert logloss == pytest.approx(-(np.log(0.5) + np.log(0.3)) / 2) and accuracy == 0.5


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"kind": "multiclass"}, "classes must be two or more different kinds of action, got []"),
        ({"kind": "multiclass", "classes": ["a", "a"]}, "classes must be two or more different kinds of action, got ['a', 'a']"),
        (
            {"kind": "multiclass", "classes": ["a", "b"], "action": "c"},
            "action must come with another kind than 'multiclass', got 'c' without",
        ),
        ({"action": "a", "classes": ["a", "b"]}, "classes must come with kind = 'multiclass', got ('a', 'b') without"),
        ({"action": "a", "scale": "value"}, "scale must come with kind = 'regression', got 'value' without"),
        ({"action": "a", "kind": "regression", "huber_delta": 2.0}, "huber_delta must come with loss = 'huber', got 2.0 without"),
    ],
)
def test_settings_that_do_not_fit_the_kind_are_refused(make_job: Callable[..., JobConfig], task: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        make_job(tasks=[{"name": "t", **task}])
    assert f"tasks.t.{message}" in str(error.value)


def test_more_label_bits_than_a_candidate_has_are_refused(make_job: Callable[..., JobConfig]) -> None:
    tasks = [{"name": f"t{index}", "kind": "regression", "action": "a"} for index in range(5)]
    with pytest.raises(ConfigError, match="tasks must have at most 64 bits of labels"):
        make_job(tasks=tasks)
