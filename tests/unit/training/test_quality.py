"""Quality while training: windows of served scores and of predictions before learning."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from monolith_py.config import JobConfig
from monolith_py.data.columns import FeatureColumns, SparseColumn
from monolith_py.data.examples import ExampleBatch, ExampleKind
from monolith_py.data.served import ServedModel, ServedScores
from monolith_py.training import Quality, QualityMonitor, Trainer, auc, calibration, normalized_entropy
from monolith_py.training.quality import BEFORE_LEARNING, MAX_MODELS, Source

TASKS = ("click", "like")


def labels_of(examples: ExampleBatch) -> np.ndarray:
    return np.stack([examples.labels[task] for task in TASKS], axis=1)


def served(examples: ExampleBatch, seed: int, *models: ServedModel) -> ExampleBatch:
    generator, num = np.random.default_rng(seed), len(examples)
    scores = {task: generator.random(num, np.float32) for task in TASKS}
    codes = (np.arange(num) % len(models)).astype(np.int32)
    return replace(examples, served=ServedScores(scores, models, codes))


def by_source(monitor: QualityMonitor, task: str = "click") -> dict[Source, Quality]:
    return {one.source: one for one in monitor.report() if one.task == task}


def test_each_arm_and_generation_has_its_own_figures(make_examples: Callable[..., ExampleBatch]) -> None:
    models = (ServedModel("live", "3.41"), ServedModel("trial", "3.40"), ServedModel("live", "3.42"), ServedModel("live", "4.0"))
    batches = [served(make_examples(seed), seed, *models) for seed in range(3)]
    monitor = QualityMonitor(TASKS)
    for batch in batches:
        monitor.add(batch, labels_of(batch), np.full((32, 2), 0.25, np.float32))
    figures = by_source(monitor)
    assert list(figures) == [Source("served", "live", "4"), Source("served", "trial", "3"), Source("served", "live", "3"), BEFORE_LEARNING]
    for source, codes in ((Source("served", "live", "3"), (0, 2)), (Source("served", "trial", "3"), (1,))):
        rows = [np.isin(batch.served.model_codes, codes) for batch in batches if batch.served]
        labels = np.concatenate([batch.labels["click"][row] for batch, row in zip(batches, rows, strict=True)])
        scores = np.concatenate([batch.served.scores["click"][row] for batch, row in zip(batches, rows, strict=True) if batch.served])
        quality = figures[source]
        assert quality.num_predictions == len(labels) and quality.auc == auc(labels, scores)
        assert quality.ne == pytest.approx(normalized_entropy(labels, scores))
        assert quality.calibration == pytest.approx(calibration(labels, scores))
    assert figures[BEFORE_LEARNING].calibration == pytest.approx(0.25 / np.mean([batch.labels["click"] for batch in batches]))


def test_a_retraction_counts_the_candidate_once_with_its_last_labels(make_examples: Callable[..., ExampleBatch]) -> None:
    """Negatives that were sampled count by their weight; the retraction of one takes that weight back."""
    whole = served(make_examples(1), 1, ServedModel("live", "1.0"))
    late = np.arange(32) % 4 == 0
    rates = np.where(late, 0.25, 1.0).astype(np.float32)
    zeros = {task: np.where(late, 0, values).astype(np.float32) for task, values in whole.labels.items()}
    first = replace(whole, labels=zeros, sample_rates=rates)
    rows = np.flatnonzero(late)
    retraction = ExampleBatch.concat([first.slice(row, row + 1) for row in rows])
    labels = {task: whole.labels[task][rows] for task in TASKS}
    retraction = replace(retraction, labels=labels, kinds=np.full(len(rows), ExampleKind.RETRACTION, np.uint8))
    corrected, once = QualityMonitor(TASKS), QualityMonitor(TASKS)
    for batch in (first, retraction):
        corrected.add(batch, labels_of(batch), np.zeros((len(batch), 2), np.float32))
    once.add(whole, labels_of(whole), np.zeros((32, 2), np.float32))
    for task in TASKS:
        got, expected = by_source(corrected, task), by_source(once, task)
        source = Source("served", "live", "1")
        for figure in ("num_positives", "auc", "ne", "calibration", "label_rate"):
            assert getattr(got[source], figure) == pytest.approx(getattr(expected[source], figure), rel=1e-5), figure
        assert got[BEFORE_LEARNING].label_rate == pytest.approx(expected[BEFORE_LEARNING].label_rate)


def test_candidates_without_a_score_are_in_no_served_figure(make_examples: Callable[..., ExampleBatch]) -> None:
    examples = served(make_examples(0), 0, ServedModel("live", "1.0"), ServedModel("", ""))
    assert examples.served is not None
    scores = np.where(np.arange(32) < 8, np.nan, 0.5).astype(np.float32)
    examples = replace(examples, served=replace(examples.served, scores={"click": scores}))
    monitor = QualityMonitor(TASKS)
    monitor.add(examples, labels_of(examples), np.full((32, 2), 0.5, np.float32))
    assert by_source(monitor)[Source("served", "live", "1")].num_predictions == 12
    assert list(by_source(monitor, "like")) == [BEFORE_LEARNING]


def test_a_window_keeps_the_newest_batches_that_fill_it(make_examples: Callable[..., ExampleBatch]) -> None:
    monitor = QualityMonitor(TASKS, size=80)
    for seed in range(6):
        examples = make_examples(seed)
        monitor.add(examples, labels_of(examples), np.full((32, 2), seed / 8, np.float32))
    quality = by_source(monitor)[BEFORE_LEARNING]
    assert quality.num_predictions == 96
    expected = np.mean([3 / 8, 4 / 8, 5 / 8]) / np.mean([make_examples(seed).labels["click"] for seed in (3, 4, 5)])
    assert quality.calibration == pytest.approx(expected)


def test_the_least_recent_of_many_models_gives_way(make_examples: Callable[..., ExampleBatch]) -> None:
    monitor = QualityMonitor(TASKS)
    for generation in (*range(MAX_MODELS), 0, MAX_MODELS):
        examples = served(make_examples(0), 0, ServedModel("live", f"{generation}.0"))
        monitor.add(examples, labels_of(examples), np.zeros((32, 2), np.float32))
    kept = [int(source.generation) for source in by_source(monitor) if source != BEFORE_LEARNING]
    assert kept == [MAX_MODELS, 0, *range(MAX_MODELS - 1, 1, -1)]


def test_figures_survive_as_json() -> None:
    for one in (
        Quality("click", Source("served", "live", "3"), 20_000, 900.0, 0.71, 0.93, 1.02, 0.045),
        Quality("click", BEFORE_LEARNING, 10, 0.0, math.nan, math.nan, math.nan, 0.0),
    ):
        again = Quality.from_document(json.loads(json.dumps(one.document(), allow_nan=False)))
        assert str(again) == str(one) and again.source == one.source


def test_faults_are_said_only_where_the_figures_can_show_them() -> None:
    good = Quality("click", BEFORE_LEARNING, 20_000, 1000.0, 0.7, 0.9, 1.1, 0.05)
    assert good.fault() is None
    assert replace(good, calibration=1.85).fault() == "calibration 1.85 is far from 1"
    assert replace(good, calibration=0.5).fault() == "calibration 0.50 is far from 1"
    assert replace(good, calibration=1.85, num_positives=20.0).fault() is None
    nothing = replace(good, num_positives=0.0, calibration=math.nan)
    assert nothing.fault() == "no positive label in 20,000 predictions"
    assert replace(nothing, num_predictions=500).fault() is None


def test_where_labels_close_early_only_served_figures_are_right(make_job: Callable[..., JobConfig]) -> None:
    """Every request has its own click rate, drawn from the same two; nothing else can be learnt, and nothing before its first label.

    A request's positives are learnt before its negatives are predicted, and its user's row carries that over to them.
    """
    job = make_job(
        features=[{"name": "user_id", "source": "user_id", "dim": 8}],
        dense_features=[],
        tasks=[{"name": "click", "action": "click"}],
        optimizer={"sparse": {"kind": "sgd", "lr": 0.5}},
    )
    trainer, generator = Trainer(job), np.random.default_rng(0)
    for request in range(600):
        clicked = generator.random(8) < (0.9 if request % 2 else 0.1)
        for labels in (np.ones(int(clicked.sum())), np.zeros(int((~clicked).sum()))):
            if len(labels):
                trainer.step(one_request(request, labels, generator))
    figures = by_source(trainer.quality)
    assert abs(figures[Source("served", "live", "1")].auc - 0.5) < 0.03  # the scores say nothing about the labels
    assert figures[BEFORE_LEARNING].auc < 0.42  # a negative's prediction has seen its request's positives


def one_request(request: int, labels: np.ndarray, generator: np.random.Generator) -> ExampleBatch:
    num = len(labels)
    scores = ServedScores(
        {"click": (0.5 + 0.1 * generator.random(num)).astype(np.float32)}, (ServedModel("live", "1.0"),), np.zeros(num, np.int32)
    )
    return ExampleBatch(
        (f"r{request}",) * num,
        np.arange(num),
        np.full(num, 1_700_000_000_000 + request),
        np.zeros(num, np.uint8),
        np.ones(num, np.float32),
        {"click": labels.astype(np.float32)},
        FeatureColumns(num, {"user_id": SparseColumn(np.full(num, request), np.ones(num, np.int32))}),
        scores,
    )
