"""Gates and experts against their definitions in numpy, and in a job: learnt, made sparse, saved, served by the core."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from monolith_py.config import JobConfig
from monolith_py.config.experts import ExpertsConfig
from monolith_py.data.examples import ExampleBatch
from monolith_py.model import build_model
from monolith_py.model.experts import Experts
from monolith_py.model.gates import Gates
from monolith_py.model.gating import from_digits, to_digits
from monolith_py.observe import metrics
from monolith_py.sync import DenseState, RowEncoding, apply_update, full_update, next_update
from monolith_py.tower import Tower
from monolith_py.training import Trainer
from monolith_serving.replica.dense_model import DenseModel

NUM_TASKS, NUM_INPUTS, COUNT = 2, 6, 4
GATES: dict[str, dict[str, Any]] = {
    "softmax": {"gate": "softmax"},
    "top_k": {"gate": "top_k", "top_k": 2, "balance": 0.1},
    "dense_to_sparse": {"gate": "dense_to_sparse", "ramp_examples": 100},
    "tree": {"gate": "tree", "top_k": 2, "ramp_examples": 100, "entropy": 0.1},
    "random": {"gate": "random", "top_k": 3, "ramp_examples": 100},
}


def config_of(gate: str, **more: Any) -> ExpertsConfig:
    return ExpertsConfig(count=COUNT, **GATES[gate], **more)


def gates_after(config: ExpertsConfig, num_examples: int) -> tuple[Gates, np.ndarray, np.ndarray]:
    """Gates with random parameters, their inputs, and their scores by task."""
    gates = Gates(NUM_INPUTS, NUM_TASKS, config)
    gates.advance(num_examples)
    inputs = np.random.default_rng(1).normal(size=(50, NUM_INPUTS)).astype(np.float32)
    scores = inputs @ gates.weight.detach().numpy().T + gates.bias.detach().numpy()
    return gates, inputs, scores.reshape(50, NUM_TASKS, -1)


def softmax_of_greatest(scores: np.ndarray, kept: int, temperature: float = 1.0) -> np.ndarray:
    weights = np.exp(scores / temperature) * (np.argsort(np.argsort(-scores)) < kept)
    return weights / weights.sum()


def tree_weights(scores: np.ndarray, kept: int) -> np.ndarray:
    """The weights of one task, leaf by leaf: the path to leaf 2 goes right, then left."""
    mass = np.zeros(COUNT)
    for tree in scores.reshape(2, 2 * COUNT - 1):
        steps = [0.0 if at <= -0.5 else 1.0 if at >= 0.5 else 1.5 * at - 2 * at**3 + 0.5 for at in tree[: COUNT - 1]]
        reached = []
        for first, second in product((0, 1), (0, 1)):
            left = steps[1 + first]
            reached.append((steps[0], 1 - steps[0])[first] * (left, 1 - left)[second])
        leaves = np.array(reached) * (np.argsort(np.argsort(-np.array(reached), kind="stable")) < kept)
        mass += leaves * np.exp(tree[COUNT - 1 :])
    return mass / mass.sum()


@pytest.mark.parametrize(
    ("gate", "num_examples", "kept", "temperature"),
    [
        ("softmax", 0, 4, 1),
        ("top_k", 0, 2, 1),
        ("dense_to_sparse", 0, 4, 2),
        ("dense_to_sparse", 50, 3, 1),
        ("dense_to_sparse", 1000, 1, 0.5),
        ("random", 0, 1, 1),
        ("random", 50, 2, 1),
        ("random", 100, 3, 1),
    ],
)
def test_flat_gates_are_a_softmax_of_the_greatest_scores(gate: str, num_examples: int, kept: int, temperature: float) -> None:
    gates, inputs, scores = gates_after(config_of(gate), num_examples)
    expected = [[softmax_of_greatest(one, kept, temperature) for one in row] for row in scores]
    np.testing.assert_allclose(gates(torch.from_numpy(inputs)).detach().numpy(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("num_examples", "kept"), [(0, 4), (50, 3), (100, 1)])
def test_a_tree_gate_multiplies_the_splits_on_the_way_to_a_leaf(num_examples: int, kept: int) -> None:
    gates, inputs, scores = gates_after(config_of("tree"), num_examples)
    weights = gates(torch.from_numpy(inputs)).detach().numpy()
    np.testing.assert_allclose(weights, [[tree_weights(one, kept) for one in row] for row in scores], rtol=1e-4, atol=1e-6)
    if kept == 1:
        assert ((weights > 0).sum(axis=2) <= 2).all(), "each of two trees ends at one expert"


def test_a_random_gate_has_no_parameter() -> None:
    assert not list(Gates(NUM_INPUTS, NUM_TASKS, config_of("random")).parameters())


def test_the_penalty_is_uneven_load_and_the_entropy_of_leaves() -> None:
    gates, inputs, _ = gates_after(config_of("top_k"), 0)
    means = gates(torch.from_numpy(inputs)).detach().numpy().mean(axis=0)  # (T, E)
    uneven = [(task.std() / task.mean()) ** 2 for task in means]
    penalty = gates.take_penalty()
    assert penalty is not None
    assert penalty.item() == pytest.approx(0.1 * 50 * np.mean(uneven), rel=1e-4)
    assert gates.take_penalty() is None

    gates, inputs, scores = gates_after(ExpertsConfig(count=2, gate="tree", entropy=0.1), 0)
    gates(torch.from_numpy(inputs))
    penalty = gates.take_penalty()
    at = np.clip(scores[:, :, 0], -0.5, 0.5)
    left = np.clip(1.5 * at - 2 * at**3 + 0.5, 1e-12, 1 - 1e-7)
    entropy = -(left * np.log(left) + (1 - left) * np.log(1 - left))
    assert penalty is not None
    assert penalty.item() == pytest.approx(0.1 * entropy.mean(axis=1).sum(), rel=1e-3)
    penalty.backward()
    assert gates.weight.grad is not None
    assert bool(gates.weight.grad.isfinite().all()), "leaves of probability 0 have a gradient"


@pytest.mark.parametrize("gate", GATES)
def test_experts_are_mixed_before_the_last_layer_of_each_task(gate: str) -> None:
    torch.manual_seed(0)
    experts = Experts(NUM_INPUTS, NUM_TASKS, config_of(gate), lambda number: Tower(NUM_INPUTS, [16, 8], seed=number))
    experts.gates.advance(60)
    head, inputs = nn.Linear(8, NUM_TASKS), torch.randn(50, NUM_INPUTS)
    weights = experts.gates(inputs)
    outputs = torch.stack([tower(inputs) for tower in experts.each], dim=1)  # (B, E, O)
    mixed = torch.einsum("bte,beo->bto", weights, outputs)
    expected = (mixed * head.weight).sum(dim=2) + head.bias
    torch.testing.assert_close(experts(inputs, head), expected, rtol=1e-4, atol=1e-5)


def test_an_expert_computes_only_the_rows_that_weigh_it() -> None:
    experts = Experts(NUM_INPUTS, 1, ExpertsConfig(count=4, gate="top_k"), lambda number: Tower(NUM_INPUTS, [8], seed=number))
    seen: list[int] = []
    for tower in experts.each:
        tower.register_forward_hook(lambda module, inputs, outputs: seen.append(len(outputs)))
    experts(torch.randn(50, NUM_INPUTS), nn.Linear(8, 1))
    assert sum(seen) == 50


@pytest.mark.parametrize("count", [0, 1, 2047, 2048, 2**31 - 1])
def test_the_count_of_examples_is_exact_as_float16(count: int) -> None:
    assert from_digits(np.array(to_digits(count), np.float16).tolist()) == count


def job_of(make_job: Callable[..., JobConfig], gate: str, **model: Any) -> JobConfig:
    settings = {"tower": [32, 16], "precision": "fp32", "experts": {"count": COUNT, **GATES[gate]}, **model}
    return make_job(model=settings, optimizer={"dense": {"reference_batch": 32}})


MODELS: dict[str, dict[str, Any]] = {
    "deepfm": {},
    "dlrm": {"kind": "dlrm"},
    "sparse": {"sparsity": {"preset": "dsl_online", "update_interval": 2, "ramp": [1, 4], "score_batches": 1}},
    "single weights": {"sparsity": {"preset": "static", "density": 0.4, "atom": "1x1"}, "dropout": 0.2},
    "dcn": {"kind": "dcn", "cross_rank": 3},
    "neurons": {"sparsity": {"preset": "static", "density": 0.5, "atom": "neuron"}},
}


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("name", MODELS)
def test_a_job_learns_publishes_and_serves_experts_in_the_core(
    make_job: Callable[..., JobConfig], make_examples: Callable[..., ExampleBatch], gate: str, name: str
) -> None:
    job = job_of(make_job, gate, **MODELS[name])
    trainer = Trainer(job)
    published = DenseState.of(trainer.export_dense())
    for seed in range(4):
        trainer.step(make_examples(seed))
        state = DenseState.of(trainer.export_dense())
        update = next_update(published, state, RowEncoding.FP16) if seed else full_update(state, RowEncoding.FP32)
        published = apply_update(published, update)
    replica = DenseModel(trainer.schema, job.model, published)
    model = build_model(trainer.schema, job.model, 0)
    model.load_state_dict({name: torch.from_numpy(value) for name, value in published.tensors.items()})
    model.eval()
    assert model.experts is not None
    assert trainer.model.experts is not None
    assert model.experts.gates.gating == trainer.model.experts.gates.gating
    generator = np.random.default_rng(0)
    pooled = generator.normal(size=(300, replica.shape.num_rows * replica.shape.dim)).astype(np.float32)
    dense = generator.normal(size=(300, replica.shape.dense_width)).astype(np.float32)
    with torch.no_grad():
        expected = model(torch.from_numpy(pooled), torch.from_numpy(dense)).numpy()
    np.testing.assert_allclose(replica.logits(pooled, dense), expected, rtol=1e-4, atol=1e-4)


def test_reports_have_load_and_entropy(make_job: Callable[..., JobConfig], make_examples: Callable[..., ExampleBatch]) -> None:
    trainer = Trainer(job_of(make_job, "top_k"))
    trainer.step(make_examples())
    trainer.report()
    loads = {
        (sample.labels["task"], sample.labels["expert"]): sample.value
        for metric in metrics.EXPERT_LOAD.collect()
        for sample in metric.samples
    }
    for task in trainer.schema.tasks:
        assert sum(loads[task, str(expert)] for expert in range(COUNT)) == pytest.approx(1, abs=1e-5)
        assert metrics.GATE_EXPERTS.labels(task=task)._value.get() == 2
        assert 0 <= metrics.GATE_ENTROPY.labels(task=task)._value.get() <= np.log(2) + 1e-6
