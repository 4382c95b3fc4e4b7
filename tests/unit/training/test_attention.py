"""Attention over a sequence against its definition in numpy, and in a job: learnt, saved, served."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from monolith_py.config import JobConfig
from monolith_py.data.columns import FeatureColumns, SparseColumn
from monolith_py.data.examples import ExampleBatch
from monolith_py.data.schema import Schema
from monolith_py.model import build_model
from monolith_py.model.attention import Attention
from monolith_py.sync import DenseState
from monolith_py.training import Trainer
from monolith_serving.replica.dense_model import DenseModel

USER = {"name": "user_id", "source": "user_id", "dim": 4}
ITEM = {"name": "item_id", "source": "item_id", "dim": 8}
RECENT = {"name": "recent", "source": "user", "dim": 8, "pooling": "first", "length": 3, "attend_to": "item_id", "attention": [6, 5]}
OLDER = {"name": "older", "source": "user", "dim": 8, "pooling": "first", "length": 2}


def job_of(make_job: Callable[..., JobConfig], features: list[dict[str, Any]], **model: Any) -> JobConfig:
    settings = {"tower": [16, 8], "precision": "fp32", **model}
    return make_job(features=features, dense_features=[], tasks=[{"name": "click", "action": "click"}], model=settings)


@pytest.mark.parametrize("hidden", [[], [6], [6, 5]])
def test_a_weight_comes_from_target_row_difference_and_product(hidden: list[int]) -> None:
    attention = Attention(8, hidden)
    rows, target = torch.randn(4, 3, 8), torch.randn(4, 8)
    expected = torch.zeros(4, 8)
    for place in range(3):
        row = rows[:, place]
        outputs = torch.cat((target, row, target - row, target * row), dim=1)
        for index, layer in enumerate(attention.layers):
            outputs = layer(torch.relu(outputs) if index else outputs)
        expected += outputs * row
    torch.testing.assert_close(attention(rows, target), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model", [{}, {"kind": "dlrm"}, {"kind": "dcn"}, {"experts": {"count": 2}}], ids=str)
def test_a_model_reads_one_row_of_an_attended_sequence_and_a_replica_scores_the_same(
    make_job: Callable[..., JobConfig], model: dict[str, Any]
) -> None:
    job = job_of(make_job, [USER, RECENT, OLDER, ITEM], **model)
    schema = Schema.of(job)
    trained = build_model(schema, job.model, 3).eval()
    assert trained.num_features == 5, "user, recent, two of older, item"
    pooled = np.random.default_rng(0).normal(size=(20, schema.sparse_width + 2 * 8)).astype(np.float32)
    state = DenseState.of({name: value.numpy() for name, value in trained.state_dict().items()})
    with torch.no_grad():
        expected = trained(torch.from_numpy(pooled), torch.zeros(20, 0)).numpy()
    got = DenseModel(schema, job.model, state).logits(pooled, np.zeros((20, 0), np.float32))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def examples(seed: int, num: int = 64) -> ExampleBatch:
    """Examples whose label says whether the item is among the user's recent ones, of which there are 0 to 3."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(0, 4, num).astype(np.int32)
    recent = generator.integers(0, 6, lengths.sum())
    items = generator.integers(0, 6, num)
    row = np.repeat(np.arange(num), lengths)
    labels = np.zeros(num, np.float32)
    labels[row[recent == items[row]]] = 1
    ones = np.ones(num, np.int32)
    columns = {"item_id": SparseColumn(items, ones), "recent": SparseColumn(recent, lengths)}
    ids = tuple(f"{seed}-{one}" for one in range(num))
    times = 1_700_000_000_000 + seed * 60_000 + np.arange(num)
    return ExampleBatch(
        ids, np.arange(num), times, np.zeros(num, np.uint8), np.ones(num, np.float32), {"click": labels}, FeatureColumns(num, columns, {})
    )


def test_a_job_learns_whether_an_item_is_in_the_sequence(make_job: Callable[..., JobConfig]) -> None:
    features = [ITEM | {"init_scale": 0.5}, RECENT | {"init_scale": 0.5}]
    job = job_of(make_job, features).model_copy(
        update={"trainer": job_of(make_job, features).trainer.model_copy(update={"batch_size": 64})}
    )
    trainer = Trainer(job)
    losses = []
    before: dict[int, np.ndarray] = {}
    for seed in range(300):
        batch = examples(seed)
        predicted = trainer.step(batch)[:, 0]
        losses.append(-np.log(np.where(batch.labels["click"] == 1, predicted, 1 - predicted)).mean())
        if seed == 0:
            before = dict(zip(*trainer.bags.tables["recent"].export_rows()[:2], strict=True))
    assert np.mean(losses[-50:]) < 0.7 * np.mean(losses[:50])
    after = dict(zip(*trainer.bags.tables["recent"].export_rows()[:2], strict=True))
    assert all((before[fid] != after[fid]).any() for fid in before), "gradients reach the rows of the sequence"
