"""DeepFM, DLRM and DCN against their equations in numpy."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch

from monolith_py.config import JobConfig
from monolith_py.data.schema import Schema
from monolith_py.model.ranking import build_model, computes_in_bf16


def tower(state: dict[str, np.ndarray], prefix: str, inputs: np.ndarray) -> np.ndarray:
    for layer in itertools.count():
        if f"{prefix}.layers.{layer}.weight" not in state:
            return inputs
        inputs = np.maximum(inputs @ state[f"{prefix}.layers.{layer}.weight"].T + state[f"{prefix}.layers.{layer}.bias"], 0)
    raise AssertionError


@pytest.mark.parametrize("kind", ["deepfm", "dlrm"])
def test_logits_follow_the_papers_equations(make_job: Callable[..., JobConfig], kind: str) -> None:
    bottom = {"bottom": [12, 8]} if kind == "dlrm" else {}
    job = make_job(model={"kind": kind, "tower": [16, 8], "precision": "fp32", **bottom})
    model = build_model(Schema.of(job), job.model, seed=3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-0.5, 0.5)
    generator = np.random.default_rng(0)
    pooled, dense = generator.normal(size=(5, 16)).astype(np.float32), generator.normal(size=(5, 2)).astype(np.float32)
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    rows = pooled.reshape(5, 2, 8)
    if kind == "deepfm":
        first, pair = rows[:, :, 0].sum(1), (rows[:, 0, 1:] * rows[:, 1, 1:]).sum(1)
        shallow = np.outer(first, state["scales"][0]) + np.outer(pair, state["scales"][1])
        top = np.concatenate([pooled, dense], axis=1)
    else:
        rows = np.concatenate([rows, tower(state, "bottom", dense)[:, None]], axis=1)
        dots = np.stack([(rows[:, i] * rows[:, j]).sum(1) for i, j in itertools.combinations(range(3), 2)], axis=1)
        shallow, top = np.zeros((5, 2)), np.concatenate([dots, rows.reshape(5, -1)], axis=1)
    expected = tower(state, "tower", top) @ state["head.weight"].T + state["head.bias"] + shallow
    got = model(torch.from_numpy(pooled), torch.from_numpy(dense)).detach().numpy()
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("structure", ["stacked", "parallel"])
@pytest.mark.parametrize("rank", [None, 3])
def test_cross_layers_follow_the_papers_equations(make_job: Callable[..., JobConfig], rank: int | None, structure: str) -> None:
    settings = {"kind": "dcn", "tower": [16, 8], "precision": "fp32", "cross_layers": 2, "structure": structure}
    job = make_job(model=settings | ({} if rank is None else {"cross_rank": rank}))
    model = build_model(Schema.of(job), job.model, seed=3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-0.5, 0.5)
    generator = np.random.default_rng(0)
    pooled, dense = generator.normal(size=(5, 16)).astype(np.float32), generator.normal(size=(5, 2)).astype(np.float32)
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    first = crossed = np.concatenate([pooled, dense], axis=1)
    for layer in ("cross.layers.0", "cross.layers.1"):
        matrix = state[f"{layer}.weight"] if rank is None else state[f"{layer}.up"] @ state[f"{layer}.down"]
        crossed = first * (crossed @ matrix.T + state[f"{layer}.bias"]) + crossed
    stacked = tower(state, "tower", crossed)
    top = stacked if structure == "stacked" else np.concatenate([crossed, tower(state, "tower", first)], axis=1)
    got = model(torch.from_numpy(pooled), torch.from_numpy(dense)).detach().numpy()
    np.testing.assert_allclose(got, top @ state["head.weight"].T + state["head.bias"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["deepfm", "dlrm"])
def test_weights_that_a_row_lacks_are_zeros(make_job: Callable[..., JobConfig], kind: str) -> None:
    """A model of rows of 4, 8, 8 and 4 weights equals one of 8 weights each whose rows end with zeros."""
    features = [
        {"name": "a", "source": "user_id", "dim": 4},
        {"name": "b", "source": "item", "dim": 8, "pooling": "first", "length": 2},
        {"name": "c", "source": "item", "dim": 4},
    ]
    same = [{"name": name, "source": "item", "dim": 8} for name in "abcd"]
    narrow, wide = (make_job(model={"kind": kind, "tower": [16], "precision": "fp32"}, features=one) for one in (features, same))
    model, other = (build_model(Schema.of(job), job.model, seed=3) for job in (narrow, wide))
    assert (model.num_features, model.dim) == (other.num_features, other.dim) == (4, 8)
    places = np.flatnonzero(np.repeat([1, 0, 1, 1, 1, 1, 1, 0], 4))
    state = model.state_dict()
    assert state.keys() == other.state_dict().keys(), "the places of weights are no parameters"
    first = other.tower.in_features - 32 - (2 if kind == "deepfm" else 8)  # columns of the dots
    tail = np.arange(first + 32, other.tower.in_features)
    wide_weight = torch.zeros(16, other.tower.in_features)
    wide_weight[:, np.concatenate([np.arange(first), first + places, tail])] = state["tower.layers.0.weight"]
    other.load_state_dict({**state, "tower.layers.0.weight": wide_weight})
    generator = np.random.default_rng(0)
    pooled = torch.from_numpy(generator.normal(size=(5, 24)).astype(np.float32)).requires_grad_()
    padded = torch.zeros(5, 32)
    padded[:, places] = pooled.detach()
    padded.requires_grad_()
    dense = torch.from_numpy(generator.normal(size=(5, 2)).astype(np.float32))
    got, expected = model(pooled, dense), other(padded, dense)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
    got.square().sum().backward()
    expected.square().sum().backward()
    assert padded.grad is not None
    torch.testing.assert_close(pooled.grad, padded.grad[:, places], rtol=1e-4, atol=1e-6)


def test_the_same_seed_gives_the_same_model_and_leaves_torch_alone(make_job: Callable[..., JobConfig]) -> None:
    job = make_job()
    state = torch.get_rng_state()
    one, two = (build_model(Schema.of(job), job.model, seed=5).state_dict() for _ in range(2))
    assert all(bool((one[name] == two[name]).all()) for name in one)
    assert bool((torch.get_rng_state() == state).all())


def test_precision_says_what_it_means() -> None:
    assert computes_in_bf16("bf16")
    assert not computes_in_bf16("fp32")
    assert computes_in_bf16("auto") in (True, False)
