"""A stream trains nearly the same model however it is cut into records: the dense optimizer weighs examples, not batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from monolith_py.config import JobConfig, parse_job
from monolith_py.data.columns import FeatureColumns, SparseColumn
from monolith_py.data.examples import ExampleBatch
from monolith_py.training import Trainer

NUM_EXAMPLES, REFERENCE = 4096, 256
Step = Callable[[Trainer, ExampleBatch], object]


def job(kind: str = "adam", sparsity: dict[str, object] | None = None) -> JobConfig:
    return parse_job(
        {
            "name": "cuts",
            "log": {"url": "sqlite:///log"},
            "kv": {"url": "memory:"},
            "features": [{"name": "user_id", "source": "user_id", "dim": 8}, {"name": "item_id", "source": "item_id", "dim": 8}],
            "tasks": [{"name": "click", "action": "click"}],
            "model": {"tower": [32, 16], "precision": "fp32", "sparsity": sparsity or {}},
            "trainer": {"checkpoint_dir": "checkpoints", "batch_size": REFERENCE},
            "optimizer": {"dense": {"kind": kind, "reference_batch": REFERENCE}, "sparse": {"kind": "sgd", "lr": 0.02}},
        }
    )


@pytest.fixture(scope="module")
def stream() -> ExampleBatch:
    """Requests of about eight candidates whose positives come before their negatives, as labels that close early do."""
    generator = np.random.default_rng(5)
    users = np.repeat(generator.integers(0, 200, NUM_EXAMPLES // 8), 8)
    items = generator.integers(0, 100, NUM_EXAMPLES)
    taste = generator.normal(size=100)
    labels = (generator.random(NUM_EXAMPLES) < 1 / (1 + np.exp(2 - taste[items]))).astype(np.float32)
    order = np.lexsort((-labels, np.arange(NUM_EXAMPLES) // 64))  # positives first among the candidates of a window
    ones = np.ones(NUM_EXAMPLES, np.int32)
    return ExampleBatch(
        tuple(map(str, range(NUM_EXAMPLES))),
        items[order],
        1_700_000_000_000 + np.arange(NUM_EXAMPLES) * 100,
        np.zeros(NUM_EXAMPLES, np.uint8),
        np.ones(NUM_EXAMPLES, np.float32),
        {"click": labels[order]},
        FeatureColumns(NUM_EXAMPLES, {"user_id": SparseColumn(users[order], ones), "item_id": SparseColumn(items[order], ones)}),
    )


def batches(trainer: Trainer, stream: ExampleBatch, sizes: Sequence[int]) -> Iterator[ExampleBatch]:
    """Yield the stream in records of these sizes, again and again, cut where the trainer asks for it."""
    start, number = 0, 0
    while start < len(stream):
        end = min(start + sizes[number % len(sizes)], len(stream))
        number += 1
        while start < end:
            stop = min(end, start + trainer.optimizer.batch_limit(REFERENCE))
            yield stream.slice(start, stop)
            start = stop


def trained(config: JobConfig, stream: ExampleBatch, sizes: Sequence[int]) -> Trainer:
    torch.set_num_threads(1)
    trainer = Trainer(config)
    for batch in batches(trainer, stream, sizes):
        trainer.step(batch)
    return trainer


def scores(trainer: Trainer, stream: ExampleBatch) -> np.ndarray:
    """Return predictions of the last tenth, learnt by the trainer as one batch: they come before it learns."""
    return trainer.step(stream.slice(NUM_EXAMPLES - NUM_EXAMPLES // 10, NUM_EXAMPLES))[:, 0]


def by_label(stream: ExampleBatch) -> list[int]:
    """Return the record sizes of a live stream: each positive comes alone, the negatives of a window together."""
    labels = stream.labels["click"]
    starts = np.flatnonzero(np.r_[True, (labels[1:] > 0) | (labels[:-1] > 0)])
    return np.diff(np.r_[starts, len(labels)]).tolist()


def assert_agrees(stream: ExampleBatch, kind: str, sizes: Sequence[int]) -> None:
    """Predictions agree to 0.003 in the mean. A step of Adam for each record by label gives 0.036."""
    expected = scores(trained(job(kind), stream, [REFERENCE]), stream)
    got = scores(trained(job(kind), stream, sizes), stream)
    assert abs(float(got.mean() - expected.mean())) < 0.003
    assert float(np.abs(got - expected).mean()) < 0.003


@pytest.mark.parametrize("kind", ["adam", "adagrad", "sgd"])
def test_records_whose_size_goes_with_the_label_give_nearly_the_same_model(stream: ExampleBatch, kind: str) -> None:
    assert_agrees(stream, kind, by_label(stream))


@settings(max_examples=6, suppress_health_check=list(HealthCheck))
@given(sizes=st.lists(st.integers(1, 400), min_size=1, max_size=12), kind=st.sampled_from(["adam", "adagrad", "sgd"]))
def test_records_of_any_sizes_give_nearly_the_same_model(stream: ExampleBatch, sizes: list[int], kind: str) -> None:
    assert_agrees(stream, kind, sizes)


def test_steps_and_topology_depend_on_the_examples_alone(stream: ExampleBatch) -> None:
    config = job(sparsity={"preset": "dsl_online", "ramp": [2, 8], "update_interval": 2})
    one, other = trained(config, stream, [REFERENCE]), trained(config, stream, [3, 50, 1, 17])
    versions = {name: int(value) for name, value in one.model.state_dict().items() if name.endswith("topology_version")}
    assert versions == {name: int(other.model.state_dict()[name]) for name in versions}
    assert all(version > 3 for version in versions.values())
    first, second = one.optimizer.state(), other.optimizer.state()
    assert bool((first["whole.step.head.bias"] == second["whole.step.head.bias"]).all())
    assert int(first["whole.step.head.bias"][0]) == NUM_EXAMPLES // REFERENCE


def test_gradients_that_are_no_step_yet_are_part_of_the_state(stream: ExampleBatch) -> None:
    one, other = Trainer(job()), Trainer(job())
    one.step(stream.slice(0, 100))
    other.bags, other.model = one.bags, one.model  # the rows and the dense parameters are the checkpoint's to restore
    other.optimizer = type(one.optimizer)(other.model, job().optimizer.dense, job().model.sparsity, 0, REFERENCE)
    other.optimizer.restore(one.optimizer.state())
    assert other.optimizer.batch_limit(REFERENCE) == one.optimizer.batch_limit(REFERENCE) == REFERENCE - 100
    for name, value in one.optimizer.state().items():
        assert bool((other.optimizer.state()[name] == value).all()), name


def test_a_poisoned_batch_leaves_pending_gradients_as_they_were(stream: ExampleBatch) -> None:
    trainer = Trainer(job())
    trainer.step(stream.slice(0, 100))
    before = {name: value.clone() for name, value in trainer.optimizer.state().items()}
    bad = stream.slice(100, 110)
    poisoned = ExampleBatch(
        bad.request_ids, bad.item_ids, bad.times_ms, bad.kinds, np.full(10, 1e-45, np.float32), bad.labels, bad.features
    )
    with pytest.raises(Exception, match="finite"):
        trainer.step(poisoned)
    for name, value in trainer.optimizer.state().items():
        assert bool((before[name] == value).all()), name
