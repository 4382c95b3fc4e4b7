"""A changed job goes on from its checkpoint: rows go by feature, dense parameters by the names of inputs and tasks.

Longer than 300 lines: all cases share one fixture.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from monolith_py.config import JobConfig
from monolith_py.data.columns import FeatureColumns, FloatArray, SparseColumn
from monolith_py.data.examples import ExampleBatch
from monolith_py.errors import CheckpointError
from monolith_py.model.batch import make_batch
from monolith_py.training import Checkpoint, CheckpointMeta, Trainer, restore_checkpoint, save_checkpoint

USER = {"name": "user_id", "source": "user_id", "dim": 8}
TAGS = {"name": "tags", "source": "item", "dim": 8, "pooling": "mean"}
HOUR = {"name": "hour", "source": "context", "dim": 8}
AGE, PRICE = {"name": "age", "source": "user", "dim": 2}, {"name": "price", "source": "item"}
CLICK, LIKE, SHARE = ({"name": name, "action": name} for name in ("click", "like", "share"))
BASE: dict[str, Any] = {
    "features": [USER, TAGS],
    "dense_features": [AGE],
    "tasks": [CLICK, LIKE],
    "model": {"tower": [32, 16], "precision": "fp32"},
    "optimizer": {"dense": {"reference_batch": 32}},
}
MODELS = {
    "deepfm": {},
    "dlrm": {"kind": "dlrm", "bottom": [16, 8]},
    "calibrated": {"calibration": "platt", "calibration_rate": 0.5},
    "dcn": {"kind": "dcn", "cross_layers": 2},
    "parallel dcn": {"kind": "dcn", "cross_layers": 2, "cross_rank": 5, "structure": "parallel"},
    "sparse deepfm": {"sparsity": {"preset": "dsl_online", "density": 0.5, "ramp": [1, 4], "update_interval": 2, "score_batches": 1}},
    "single weights": {"sparsity": {"preset": "set", "density": 0.5, "atom": "1x1"}},
    "neurons": {"sparsity": {"preset": "static", "density": 0.5, "atom": "neuron"}},
    "experts": {"experts": {"count": 4, "gate": "dense_to_sparse", "ramp_examples": 400, "top_k": 2}},
    "sparse experts": {
        "experts": {"count": 2, "gate": "tree", "ramp_examples": 400},
        "sparsity": {"preset": "dsl_online", "density": 0.5, "ramp": [1, 4], "update_interval": 2, "score_batches": 1},
    },
    "2:4": {"sparsity": {"preset": "nm"}},
}


def examples(seed: int, num: int = 32) -> ExampleBatch:
    """Examples with every feature and task of these tests; `user_id` decides the labels."""
    generator = np.random.default_rng(seed)
    ones, users = np.ones(num, np.int32), generator.integers(0, 20, num)
    sparse = {name: SparseColumn(generator.integers(0, 9, num), ones) for name in ("tags", "hour")} | {"user_id": SparseColumn(users, ones)}
    dense = {"age": generator.normal(size=(num, 2)).astype(np.float32), "price": generator.normal(size=(num, 1)).astype(np.float32)}
    labels = {name: (users % divisor == 0).astype(np.float32) for name, divisor in (("click", 2), ("like", 3), ("share", 5))}
    times = 1_700_000_000_000 + seed * 60_000 + np.arange(num)
    ids = tuple(f"{seed}-{row}" for row in range(num))
    return ExampleBatch(
        ids, np.arange(num), times, np.zeros(num, np.uint8), ones.astype(np.float32), labels, FeatureColumns(num, sparse, dense)
    )


def of_job(trainer: Trainer, batch: ExampleBatch) -> ExampleBatch:
    """The batch with the features and tasks of the trainer's job alone."""
    schema, columns = trainer.schema, batch.features
    features = FeatureColumns(
        len(batch), {name: columns.sparse[name] for name in schema.sparse_names}, {name: columns.dense[name] for name in schema.dense_names}
    )
    labels = {task: batch.labels[task] for task in schema.tasks}
    return replace(batch, labels=labels, features=features)


def learn(trainer: Trainer, first: int, last: int) -> None:
    for seed in range(first, last):
        trainer.step(of_job(trainer, examples(seed)))


def logits(trainer: Trainer, seed: int = 1000) -> dict[str, FloatArray]:
    """The logits of each task on unseen examples, without learning."""
    batch = make_batch(of_job(trainer, examples(seed)).features, trainer.schema)
    trainer.bags.eval()
    trainer.model.eval()
    with torch.no_grad():
        out = trainer.model(trainer.bags(batch.sparse()).values(), torch.from_numpy(batch.dense)).numpy()
    trainer.bags.train()
    trainer.model.train()
    return {task: out[:, index] for index, task in enumerate(trainer.schema.tasks)}


@pytest.fixture
def change(make_job: Callable[..., JobConfig], tmp_path: Path) -> Callable[..., tuple[Trainer, Trainer, tuple[str, ...]]]:
    """Return a function that trains one job, restores another from its checkpoint, and returns both trainers and the lines."""

    def make(before: dict[str, Any], after: dict[str, Any], **options: Any) -> tuple[Trainer, Trainer, tuple[str, ...]]:
        old, new = Trainer(make_job(**{**BASE, **before})), Trainer(make_job(**{**BASE, **after}))
        learn(old, 0, 6)
        meta = CheckpointMeta("training", old.num_batches, old.num_examples, 1, 0, 0, {}, old.watermark_ms, 0)
        checkpoint = save_checkpoint(tmp_path / "saved", old, meta, keep=1)
        restored = restore_checkpoint(Checkpoint(checkpoint.path), new, "training", **options)
        return old, new, restored.changes

    return make


def rows(trainer: Trainer, feature: str) -> Any:
    return trainer.bags.tables[feature].export_rows()


@pytest.mark.parametrize("model", MODELS)
def test_an_unchanged_job_says_nothing(change: Callable[..., Any], model: str) -> None:
    settings = {"model": {**BASE["model"], **MODELS[model]}}
    old, new, lines = change(settings, settings)
    assert lines == ()
    learn(old, 6, 10)
    learn(new, 6, 10)
    for task, value in logits(old).items():
        np.testing.assert_array_equal(value, logits(new)[task])


@pytest.mark.parametrize("model", MODELS)
def test_reordered_features_and_tasks_score_the_same_and_learn_on(change: Callable[..., Any], model: str) -> None:
    settings = {"dense_features": [AGE, PRICE], "model": {**BASE["model"], **MODELS[model]}}
    other = {**settings, "features": [TAGS, USER], "dense_features": [PRICE, AGE], "tasks": [LIKE, CLICK]}
    old, new, lines = change(settings, other)
    assert "head: 2 of 2 tasks kept" in lines
    if model != "2:4":  # its live atoms cannot move
        for task, value in logits(old).items():
            np.testing.assert_allclose(logits(new)[task], value, rtol=1e-4, atol=1e-5)
    learn(new, 6, 12)
    if model in ("deepfm", "dlrm", "dcn", "parallel dcn"):
        learn(old, 6, 12)
        for task, value in logits(old).items():  # the state of the optimizer moved, too
            np.testing.assert_allclose(logits(new)[task], value, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("model", [name for name in MODELS if name != "2:4"])
def test_added_features_and_tasks_leave_the_other_scores_as_they_are(change: Callable[..., Any], model: str) -> None:
    settings = {"model": {**BASE["model"], **MODELS[model]}}
    added = {"features": [HOUR, USER, TAGS], "dense_features": [PRICE, AGE], "tasks": [SHARE, CLICK, LIKE]}
    old, new, lines = change(settings, {**settings, **added})
    assert "feature hour: new, its table starts empty" in lines
    assert "head: 2 of 3 tasks kept, the others started anew" in lines
    assert any(": 2 of 2 layers kept" in line and "inputs dropped" in line for line in lines)
    for task, value in logits(old).items():  # rows of hour read zeros
        np.testing.assert_allclose(logits(new)[task], value, rtol=1e-4, atol=1e-5)
    for feature in ("user_id", "tags"):
        np.testing.assert_array_equal(rows(new, feature)[1], rows(old, feature)[1])
    learn(new, 6, 12)
    assert len(new.bags.tables["hour"]) == 9


@pytest.mark.parametrize("model", ["deepfm", "dlrm", "sparse deepfm"])
def test_a_longer_sequence_scores_the_same_where_it_has_no_more_fids(change: Callable[..., Any], model: str) -> None:
    tags = {**TAGS, "pooling": "first", "length": 1}
    before = {"features": [tags, USER], "model": BASE["model"] | MODELS[model]}
    old, new, _ = change(before, before | {"features": [tags | {"length": 3}, USER]})
    assert [row for row, _ in new.layout.rows()] == [("tags", 0), ("tags", 1), ("tags", 2), "user_id"]
    for task, expected in logits(old).items():
        np.testing.assert_allclose(logits(new)[task], expected, rtol=1e-5, atol=1e-6)


def test_a_longer_attended_sequence_keeps_its_attention(change: Callable[..., Any]) -> None:
    tags = {**TAGS, "pooling": "first", "length": 1, "attend_to": "user_id"}
    old, new, lines = change({"features": [tags, USER]}, {"features": [USER, tags | {"length": 3}]})
    assert "attention of_tags: kept" in lines
    for task, expected in logits(old).items():
        np.testing.assert_allclose(logits(new)[task], expected, rtol=1e-4, atol=1e-6)
    learn(new, 6, 8)


def test_a_reset_table_starts_the_inputs_of_all_its_features_anew(change: Callable[..., Any]) -> None:
    settings = {"features": [USER, TAGS | {"table": "user_id"}]}
    _, new, lines = change(settings, settings, reset_tables=["user_id"])
    assert any("16 new inputs started at 0, 16 inputs dropped" in line for line in lines)
    learn(new, 6, 8)


@pytest.mark.parametrize("widths", [[16], [32, 8]])
def test_attention_of_another_width_starts_anew(change: Callable[..., Any], widths: list[int]) -> None:
    tags = {**TAGS, "pooling": "first", "length": 2, "attend_to": "user_id"}
    _, new, lines = change({"features": [tags, USER]}, {"features": [tags | {"attention": widths}, USER]})
    assert {"attention of_tags: started anew", "tower: 2 of 2 layers kept", "head: 2 of 2 tasks kept"} <= set(lines)
    learn(new, 6, 8)


def test_the_calibration_of_a_head_that_starts_anew_starts_anew(change: Callable[..., Any]) -> None:
    model = {**BASE["model"], **MODELS["calibrated"]}
    old, new, _ = change({"model": model}, {"model": {**model, "tower": [32, 24]}})
    assert (old.model.calibration[0] - 1.0).abs().max() > 0.05
    assert new.model.calibration.tolist() == [[1.0, 1.0], [0.0, 0.0]]


def test_a_new_regression_starts_from_a_value_not_from_a_logit(change: Callable[..., Any]) -> None:
    _, new, _ = change({}, {"tasks": [CLICK, LIKE | {"kind": "regression"}]})
    assert new.model.head.bias[1].item() == pytest.approx(0.1)


@pytest.mark.parametrize("model", MODELS)
def test_removed_features_and_tasks_are_dropped_and_said(change: Callable[..., Any], model: str) -> None:
    wide = {"features": [USER, HOUR, TAGS], "dense_features": [PRICE, AGE], "tasks": [CLICK, SHARE, LIKE]}
    model_settings = {"model": {**BASE["model"], **MODELS[model]}}
    old, new, lines = change({**wide, **model_settings}, model_settings)
    assert any(line.startswith("feature hour: dropped, with its table of") for line in lines)
    assert "head: 2 of 2 tasks kept" in lines
    np.testing.assert_array_equal(rows(new, "user_id")[1], rows(old, "user_id")[1])
    learn(new, 6, 12)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"features": [{**USER, "ttl_s": 3600}, TAGS]}, "features.user_id.ttl_s: 3600, was None"),
        ({"features": [{**USER, "admit_after": 3}, TAGS]}, "features.user_id.admit_after: 3, was 1"),
        ({"features": [{**USER, "admission": "sketch"}, TAGS]}, "features.user_id.admission: 'sketch', was 'count'"),
        ({"features": [{**USER, "budget_bytes": 100_000}, TAGS]}, "features.user_id.budget_bytes: 100000, was None"),
        ({"features": [{**USER, "initializer": "zeros"}, TAGS]}, "features.user_id.initializer: 'zeros', was 'uniform'"),
        ({"optimizer": {"sparse": {"kind": "adam"}, **BASE["optimizer"]}}, "optimizer.sparse.kind: 'adam', was 'adagrad'"),
        ({"optimizer": {"sparse": {"lr": 0.5}, **BASE["optimizer"]}}, "optimizer.sparse.lr: 0.5, was None"),
        ({"optimizer": {"dense": {"lr": 0.5, "reference_batch": 32}}}, "optimizer.dense.lr: 0.5, was 0.001"),
        ({"tasks": [{**CLICK, "weight": 2.0}, LIKE]}, "tasks.click.weight: 2.0, was 1.0"),
        ({"seed": 9}, "seed: 9, was 0"),
        ({"model": {**BASE["model"], "dropout": 0.5}}, "model.dropout: 0.5, was 0.0"),
    ],
)
def test_a_setting_that_is_no_identity_changes_no_score(change: Callable[..., Any], settings: dict[str, Any], line: str) -> None:
    old, new, lines = change({}, settings)
    assert line in lines
    for task, value in logits(old).items():
        np.testing.assert_array_equal(logits(new)[task], value)
    learn(new, 6, 8)


@pytest.mark.parametrize(("kind", "was"), [("adagrad", "adam"), ("sgd", "adam"), ("adam", "sgd")])
def test_another_dense_optimizer_starts_anew_with_the_parameters_kept(change: Callable[..., Any], kind: str, was: str) -> None:
    before, after = ({"optimizer": {"dense": {"kind": one, "reference_batch": 32}}} for one in (was, kind))
    old, new, lines = change(before, after)
    assert f"optimizer.dense.kind: {kind!r}, was {was!r}" in lines
    assert any(line.startswith("optimizer state of dense parameters: 0 of ") for line in lines)
    for task, value in logits(old).items():
        np.testing.assert_array_equal(logits(new)[task], value)
    learn(new, 6, 8)


@pytest.mark.parametrize(
    ("tower", "text"),
    [
        ([32, 24], "tower: 1 of 2 layers kept, the others started anew: outputs are [32, 24], were [32, 16]"),
        ([8, 16], "tower: 0 of 2 layers kept, the others started anew: outputs are [8, 16], were [32, 16]"),
        ([32, 16, 8], "tower: 2 of 3 layers kept, the others started anew: outputs are [32, 16, 8], were [32, 16]"),
        ([], "tower: 0 of 0 layers kept, the others started anew: outputs are [], were [32, 16]"),
    ],
)
def test_layers_of_another_width_start_anew_with_those_above(change: Callable[..., Any], tower: list[int], text: str) -> None:
    old, new, lines = change({}, {"model": {**BASE["model"], "tower": tower}})
    assert text in lines
    assert "head: started anew, its inputs are others" in lines
    if tower and tower[0] == 32:
        np.testing.assert_array_equal(new.model.tower.layers[0].weight.detach(), old.model.tower.layers[0].weight.detach())
    np.testing.assert_array_equal(rows(new, "user_id")[1], rows(old, "user_id")[1])
    learn(new, 6, 8)


@pytest.mark.parametrize(
    ("before", "after"), [("deepfm", "sparse deepfm"), ("sparse deepfm", "deepfm"), ("single weights", "sparse deepfm")]
)
def test_a_dense_tower_becomes_sparse_and_a_sparse_one_dense(change: Callable[..., Any], before: str, after: str) -> None:
    settings = [{"model": {**BASE["model"], **MODELS[name]}} for name in (before, after)]
    old, new, lines = change(*settings)
    assert any(line.startswith("tower: 2 of 2 layers kept") for line in lines)
    if after == "deepfm":
        for task, value in logits(old).items():
            np.testing.assert_allclose(logits(new)[task], value, rtol=1e-4, atol=1e-5)
    learn(new, 6, 12)


def test_another_kind_of_model_keeps_the_rows(change: Callable[..., Any]) -> None:
    old, new, lines = change({}, {"model": {**BASE["model"], **MODELS["dlrm"]}})
    assert "dense parameters: started anew, model.kind is 'dlrm', was 'deepfm'" in lines
    np.testing.assert_array_equal(rows(new, "user_id")[1], rows(old, "user_id")[1])
    learn(new, 6, 8)


def test_another_dim_is_refused_unless_the_table_is_reset(change: Callable[..., Any]) -> None:
    wide = {"features": [{**USER, "dim": 16}, {**TAGS, "dim": 16}]}
    with pytest.raises(
        CheckpointError, match=r"features.user_id.dim must be 8, as in .*, got 16: start its table anew with --reset-table user_id"
    ):
        change({}, wide)
    _, new, lines = change({}, wide, reset_tables=["user_id", "tags"])
    assert "feature user_id: its table was reset and starts empty" in lines
    assert len(new.bags.tables["user_id"]) == 0
    learn(new, 6, 8)


def test_counters_keep_the_rate_of_each_task(change: Callable[..., Any], make_job: Callable[..., JobConfig]) -> None:
    counters = {"counters": {"enabled": True, "keys": ["user_id"]}}
    one, two = (Trainer(make_job(**{**BASE, **counters, "tasks": tasks})) for tasks in ([CLICK, LIKE], [SHARE, LIKE]))
    assert one.layout.dense_features[-1] == ("counter_user_id", ("count", "click", "like"))
    assert two.layout.dense_features[-1] == ("counter_user_id", ("count", "share", "like"))


def test_reordered_features_of_a_model_without_a_tower_score_the_same(change: Callable[..., Any]) -> None:
    settings = {"model": {"tower": [], "precision": "fp32"}, "dense_features": [AGE, PRICE]}
    old, new, lines = change(settings, {**settings, "features": [TAGS, USER], "dense_features": [PRICE, AGE]})
    assert "head: 2 of 2 tasks kept" in lines
    for task, value in logits(old).items():
        np.testing.assert_allclose(logits(new)[task], value, rtol=1e-4, atol=1e-5)
