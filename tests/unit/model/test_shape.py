"""The shape of a model in numpy against the model in torch: same names, same shapes, same logits from the core, and refusals by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from monolith_py import _core
from monolith_py.config import JobConfig, parse_job
from monolith_py.data.schema import Schema
from monolith_py.model import build_model
from monolith_py.model.fixed import InputSplit, fixed_model
from monolith_py.model.shape import ModelShape
from monolith_py.sync import DenseState
from monolith_serving.replica.dense_model import DenseModel

LAYER = "tower.layers.0"
SPARSE = {"preset": "static", "density": 0.4}
MODELS: list[dict[str, Any]] = [
    {"tower": []},
    {"tower": [24, 8]},
    {"tower": [40, 20], "sparsity": SPARSE},
    {"tower": [40, 12], "sparsity": SPARSE},  # the second layer is too small for the atoms
    {"tower": [24, 10], "sparsity": {**SPARSE, "atom": "1x1"}, "dropout": 0.2},
    {"tower": [24, 10], "sparsity": {**SPARSE, "atom": "neuron"}},
    {"kind": "dlrm", "tower": [24, 16], "bottom": [12, 8], "sparsity": SPARSE},
    {"kind": "dlrm", "tower": [24]},
    {"kind": "dcn", "tower": []},
    {"kind": "dcn", "tower": [24, 8], "cross_rank": 5},
    {"kind": "dcn", "tower": [24, 8], "cross_layers": 2, "structure": "parallel"},
    {"kind": "dcn", "tower": [40, 20], "cross_rank": 7, "sparsity": SPARSE},
    {"kind": "dcn", "tower": [40, 20], "cross_rank": 7, "structure": "parallel", "sparsity": SPARSE},
    {"tower": [24, 10], "experts": {"count": 3, "gate": "top_k", "top_k": 2}},
    {"kind": "dcn", "tower": [24, 10], "experts": {"count": 2}},
    {"kind": "dcn", "tower": [40, 16], "cross_rank": 5, "experts": {"count": 4, "gate": "dense_to_sparse"}, "sparsity": SPARSE},
    {"kind": "dlrm", "tower": [40, 16], "experts": {"count": 4, "gate": "tree", "top_k": 2}, "sparsity": SPARSE},
]


ONE_DIM = [{"dim": 8}, {"dim": 8}, {"dim": 8}]
MIXED = [{"dim": 4}, {"dim": 12}, {"dim": 4, "pooling": "first", "length": 2}]


def job_of(model: Mapping[str, Any], *, width: int = 3, rows: Sequence[Mapping[str, Any]] = ONE_DIM) -> JobConfig:
    return parse_job(
        {
            "name": "small",
            "log": {"url": "sqlite:///unused"},
            "kv": {"url": "memory:"},
            "features": [
                {"name": name, "source": source, **row}
                for (name, source), row in zip({"user_id": "user_id", "item_id": "item_id", "tab": "context"}.items(), rows, strict=True)
            ],
            "dense_features": [{"name": "hour", "source": "context", "dim": width}] if width else [],
            "tasks": [{"name": name, "action": name} for name in ("click", "like")],
            "model": {"precision": "fp32", **model},
            "trainer": {"checkpoint_dir": "unused"},
        }
    )


def parameters_of(job: JobConfig) -> tuple[Any, dict[str, np.ndarray]]:
    model = build_model(Schema.of(job), job.model, seed=3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-0.5, 0.5)
    return model.eval(), {name: value.numpy() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("rows", [ONE_DIM, MIXED], ids=["one", "mixed"])
@pytest.mark.parametrize("width", [0, 3])
@pytest.mark.parametrize("settings", MODELS, ids=str)
def test_the_core_computes_what_torch_computes_from_the_same_parameters(settings, width, rows) -> None:
    bottom = {"bottom": [12, max(row["dim"] for row in rows)]} if settings.get("bottom") and width else {}
    job = job_of({key: value for key, value in settings.items() if key != "bottom"} | bottom, width=width, rows=rows)
    model, parameters = parameters_of(job)
    generator = np.random.default_rng(0)
    pooled, dense = (generator.normal(size=(600, columns)).astype(np.float32) for columns in (24, width))
    logits = DenseModel(Schema.of(job), job.model, DenseState.of(parameters)).logits(pooled, dense)
    with torch.no_grad():
        expected = model(torch.from_numpy(pooled), torch.from_numpy(dense)).numpy()
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["deepfm", "dlrm", "dcn"])
def test_rows_whose_padding_exceeds_the_inputs_of_a_sparse_tower_score_as_in_torch(kind) -> None:
    rows = [{"dim": 4}, {"dim": 1024}, {"dim": 4, "pooling": "first", "length": 70}]  # 72 rows of 1024 weights when padded
    cross = {"cross_rank": 2, "cross_layers": 1} if kind == "dcn" else {}
    job = job_of({"kind": kind, "tower": [32, 16], "sparsity": SPARSE, **cross}, width=0, rows=rows)
    model, parameters = parameters_of(job)
    pooled = np.random.default_rng(0).normal(scale=0.05, size=(5, 1308)).astype(np.float32)
    dense = np.zeros((5, 0), np.float32)
    logits = DenseModel(Schema.of(job), job.model, DenseState.of(parameters)).logits(pooled, dense)
    with torch.no_grad():
        expected = model(torch.from_numpy(pooled), torch.from_numpy(dense)).numpy()
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


def test_several_threads_compute_the_logits_of_one() -> None:
    job = job_of({"tower": [40, 16]}, rows=ONE_DIM)
    _, parameters = parameters_of(job)
    model = DenseModel(Schema.of(job), job.model, DenseState.of(parameters))
    generator = np.random.default_rng(0)
    pooled, dense = (generator.normal(size=(3000, columns)).astype(np.float32) for columns in (24, 3))
    expected = model.logits(pooled, dense)
    try:
        _core.set_num_threads(3)
        np.testing.assert_array_equal(model.logits(pooled, dense), expected)
    finally:
        _core.set_num_threads(1)


def test_a_model_with_shared_inputs_scores_no_batch() -> None:
    job = job_of({"tower": [8]})
    _, parameters = parameters_of(job)
    fixed = fixed_model(ModelShape.of(Schema.of(job), job.model), parameters, InputSplit((0,), (1, 2), (), (0, 1, 2)))
    with pytest.raises(ValueError, match="must have no shared inputs to score a batch"):
        fixed.logits(np.zeros((1, 24), np.float32), np.zeros((1, 3), np.float32), np.zeros((1, 2), np.float32))


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda given: given.pop("head.bias"), r"must be those of the model, got \['head.bias'\]"),
        (lambda given: given.update(more=np.zeros(1)), r"must be those of the model, got \['more'\]"),
        (lambda given: given.update({"head.bias": np.zeros(3)}), r"head.bias must have shape \(2,\), got \(3,\)"),
        (lambda given: given.update({"scales": np.zeros((2, 3))}), r"scales must have shape \(2, 2\), got \(2, 3\)"),
        (lambda given: given.update({f"{LAYER}.values": np.zeros((1, 16))}), rf"{LAYER}.values must have shape \(\d+, 16\), got \(1, 16\)"),
        (lambda given: given.update({f"{LAYER}.bounds": given[f"{LAYER}.bounds"] + 1}), f"{LAYER}.bounds must ascend from 0"),
        (lambda given: given.update({f"{LAYER}.columns": given[f"{LAYER}.columns"] + 20}), rf"{LAYER}.columns must be in \[0, 27\)"),
        (lambda given: given.update({f"{LAYER}.columns": given[f"{LAYER}.columns"] * 0}), f"{LAYER}.columns must ascend within a block"),
    ],
)
def test_parameters_of_another_model_are_refused_by_name(change: Callable[[dict[str, np.ndarray]], object], rule: str) -> None:
    job = job_of({"tower": [32], "sparsity": SPARSE})
    _, parameters = parameters_of(job)
    change(parameters)
    with pytest.raises(ValueError, match=rule):
        ModelShape.of(Schema.of(job), job.model).check(parameters)
