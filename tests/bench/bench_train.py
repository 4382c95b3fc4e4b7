"""The trainer's whole step in one process, against the same DeepFM in plain torch and against its tower alone.

26 sparse features of dim 16 and 13 dense ones, batch 4096, tower 512-256-64; 10M rows over all features, all born, ids of each feature
zipf. Ours hashes and takes row-wise Adagrad; torch takes row numbers and SGD. Both have Adam on what is dense.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from figures import figure, interleaved, print_machine
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from workload import RowPicker, Scale, fids_of

from monolith_py import _core
from monolith_py.config import JobConfig, parse_job
from monolith_py.data.columns import FeatureColumns, SparseColumn
from monolith_py.data.examples import ExampleBatch
from monolith_py.model.batch import make_batch
from monolith_py.model.ranking import computes_in_bf16
from monolith_py.table import EmbeddingBags
from monolith_py.training import Trainer

NUM_FEATURES, DIM, NUM_DENSE, TOWER = 26, 16, 13, (512, 256, 64)
NUM_BATCHES = 30  # as many as rounds: none comes twice
TIME_MS = 1_700_000_000_000
CHUNK = 65_536
LR = 1e-3
THREADS = (1, 2)
# Where the time of a step goes: functions by the end of their file's name, all calls together, callees included.
PARTS = {
    "make_batch": [("monolith_py/model/batch.py", "make_batch")],
    "forward": [("table/bags.py", "forward"), ("monolith_py/model/ranking.py", "forward")],
    "backward": [("torch/_tensor.py", "backward")],
    "optimizer": [("training/dense_optimizer.py", "step")],
    "quality": [("training/quality.py", "add")],
    "rows_forward": [("table/bags.py", "forward")],  # part of forward
    "rows_backward": [("table/pooled_lookup.py", "_step")],  # part of backward: dedup, update
}
STEP = ("training/trainer.py", "step")
# Settings of the model by the name in its figures: sparse towers are past their ramp and swap on.
_SPARSE = {"preset": "dsl_online", "ramp": None}
MODELS: dict[str, dict[str, object]] = {
    "dense": {},
    "80": {"sparsity": {**_SPARSE, "density": 0.2}},
    "90": {"sparsity": {**_SPARSE, "density": 0.1}},
}


@dataclass(frozen=True)
class Input:
    """One batch for each contestant: examples for the trainer, (B, F) row numbers, dense features and labels for torch."""

    examples: ExampleBatch
    numbers: Tensor  # (B * F,)
    dense: Tensor  # (B, 13)
    labels: Tensor  # (B,)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000, help="over all features")
    parser.add_argument("--quick", action="store_true", help="a few small batches, to see that all of it runs")
    options = parser.parse_args()
    scale = Scale(options.rows, 4096, rounds=20, warmup=10)
    if options.quick:
        scale = Scale(NUM_FEATURES * 500, 256, rounds=2, warmup=1)
    print_machine(*THREADS)
    _core.keep_freed_memory()  # as the trainer's process does; all contestants gain
    generator = np.random.default_rng(0)
    num_fids = scale.rows // NUM_FEATURES
    inputs = make_inputs(scale, num_fids, generator)
    bags = filled_bags(num_fids)
    weights = torch.empty(num_fids * NUM_FEATURES, DIM).uniform_(-0.01, 0.01)
    rows = nn.EmbeddingBag(*weights.shape, mode="sum", sparse=True, _weight=weights)
    ours = {name: trainer_step(trainer_of(model, bags), inputs) for name, model in MODELS.items()}
    calls = {
        **ours,
        "fp32": torch_step(rows, inputs, bf16=False),
        "bf16": torch_step(rows, inputs, bf16=True),
        "mlp_only": mlp_step(inputs),
        "no_tower": trainer_step(without_tower(trainer_of({}, bags), scale.batch), inputs),
        "rows": rows_step(trainer_of({}, bags), inputs),
    }
    for threads in THREADS:
        torch.set_num_threads(threads)
        _core.set_num_threads(threads)
        medians = interleaved(calls, scale.rounds, warmup=scale.warmup)
        for name in MODELS:
            report(name, medians, scale.batch, threads)
        report_shares(calls["dense"], scale.rounds, threads)
        beside_s = medians["no_tower"] - medians["rows"]
        figure(f"train.beside_ms.threads{threads}", beside_s * 1e3, "ms")
        figure(f"train.share.beside.threads{threads}", beside_s / medians["dense"], "ratio")
        assert all(len(table) == num_fids for table in bags.tables.values())


def report(name: str, medians: Mapping[str, float], batch: int, threads: int) -> None:
    """Print rates of a model and their ratios; torch counts with its faster precision."""
    figure(f"train.examples_per_s.{name}.threads{threads}", batch / medians[name], "examples/s")
    figure(f"train.examples_per_s_vs_torch.{name}.threads{threads}", min(medians["fp32"], medians["bf16"]) / medians[name], "ratio")
    if name != "dense":
        return
    for precision in ("fp32", "bf16"):
        figure(f"train.torch_examples_per_s.{precision}.threads{threads}", batch / medians[precision], "examples/s")
    figure(f"train.mlp_only_examples_per_s.threads{threads}", batch / medians["mlp_only"], "examples/s")
    figure(f"train.dense_vs_mlp_only.threads{threads}", medians["mlp_only"] / medians["dense"], "ratio")


def report_shares(step: Callable[[int], object], rounds: int, threads: int) -> None:
    """Print the parts of a step as shares of it, by the profiler."""
    profile = cProfile.Profile()
    with profile:
        for index in range(rounds):
            step(index)
    seconds: dict[tuple[str, str], float] = {}
    wanted = {STEP, *(function for functions in PARTS.values() for function in functions)}
    for (file, _, name), (_, _, _, cumulative_s, _) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        for function in wanted:
            if file.endswith(function[0]) and name == function[1]:
                seconds[function] = max(seconds.get(function, 0.0), cumulative_s)  # of nested ones the outer
    assert seconds.keys() == wanted, f"not called any more: {wanted - seconds.keys()}"
    for part, functions in PARTS.items():
        figure(f"train.share.{part}.threads{threads}", sum(seconds[function] for function in functions) / seconds[STEP], "ratio")


def job_of(model: Mapping[str, object]) -> JobConfig:
    """Return the job, with what `model` says of its model; nothing of it is on disk."""
    return parse_job(
        {
            "name": "bench",
            "log": {"url": "sqlite:///unused/log"},
            "kv": {"url": "memory:"},
            "features": [{"name": f"sparse_{index}", "source": "item", "dim": DIM} for index in range(NUM_FEATURES)],
            "dense_features": [{"name": f"dense_{index}", "source": "item"} for index in range(NUM_DENSE)],
            "tasks": [{"name": "is_click", "action": "click"}],
            "model": {"kind": "deepfm", "tower": list(TOWER), "precision": "auto", **model},
            "optimizer": {"sparse": {"kind": "rowwise_adagrad"}, "dense": {"lr": LR, "reference_batch": 4096}},
            "trainer": {"checkpoint_dir": "unused"},
        }
    )


def make_inputs(scale: Scale, num_fids: int, generator: np.random.Generator) -> list[Input]:
    """Return batches of the same ids, dense features and labels for all contestants."""
    picker = RowPicker(num_fids, generator)
    size = scale.batch
    one = np.ones(size, np.int32)
    inputs = []
    for _ in range(NUM_BATCHES):
        picks = picker.draw("zipf", size * NUM_FEATURES).reshape(NUM_FEATURES, size)
        numbers = picks + np.arange(NUM_FEATURES)[:, None] * num_fids  # (F, B)
        dense = generator.normal(0, 1, (size, NUM_DENSE)).astype(np.float32)
        labels = (generator.random(size) < 0.3).astype(np.float32)
        columns = FeatureColumns(
            size,
            {f"sparse_{index}": SparseColumn(fids_of(numbers[index]), one) for index in range(NUM_FEATURES)},
            {f"dense_{index}": np.ascontiguousarray(dense[:, index : index + 1]) for index in range(NUM_DENSE)},
        )
        times, kinds, rates = np.full(size, TIME_MS), np.zeros(size, np.uint8), np.ones(size, np.float32)
        examples = ExampleBatch(("r",) * size, np.arange(size), times, kinds, rates, {"is_click": labels}, columns)
        by_example = torch.from_numpy(np.ascontiguousarray(numbers.T).ravel())
        inputs.append(Input(examples, by_example, torch.from_numpy(dense), torch.from_numpy(labels)))
    return inputs


def filled_bags(num_fids: int) -> EmbeddingBags:
    """Return bags with a row for every fid of every feature."""
    bags = Trainer(job_of({})).bags
    for index, table in enumerate(bags.tables.values()):
        for start in range(0, num_fids, CHUNK):
            numbers = np.arange(start, min(start + CHUNK, num_fids)) + index * num_fids
            table.find_or_insert(fids_of(numbers), TIME_MS // 1000)
    return bags


def trainer_of(model: Mapping[str, object], bags: EmbeddingBags) -> Trainer:
    """Return a trainer of that model; all trainers share the rows, which fit into memory once."""
    trainer = Trainer(job_of(model))
    trainer.bags = bags
    return trainer


def trainer_step(trainer: Trainer, inputs: list[Input]) -> Callable[[int], object]:
    """Return one step of ours."""
    return lambda index: trainer.step(inputs[index % len(inputs)].examples)


def without_tower(trainer: Trainer, batch: int) -> Trainer:
    """Put a tower in place that costs nothing: its outputs are zeros, and all gradients that it sends back are at hand."""
    parameters = tuple(trainer.model.tower.parameters())
    backward = torch.full((batch, NUM_FEATURES * DIM), 1e-6), None, *(torch.full_like(parameter, 1e-3) for parameter in parameters)
    trainer.model.tower = _NoTower(parameters, torch.zeros(batch, TOWER[-1]), backward)  # type: ignore[assignment]
    return trainer


class _NoTower(nn.Module):
    def __init__(self, parameters: tuple[nn.Parameter, ...], outputs: Tensor, backward: tuple[Tensor | None, ...]) -> None:
        super().__init__()
        self.weights = nn.ParameterList(parameters)
        self.ready = outputs, backward

    def forward(self, pooled: Tensor, dense: Tensor) -> Tensor:
        outputs: Tensor = _Ready.apply(self.ready, pooled, dense, *self.weights)
        return outputs


class _Ready(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ready: tuple[Tensor, tuple[Tensor | None, ...]], *inputs: Tensor) -> Tensor:
        outputs, ctx.gradients = ready
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return None, *ctx.gradients


def rows_step(trainer: Trainer, inputs: list[Input]) -> Callable[[int], None]:
    """Return what the rows cost alone: look-up and update, ids and gradients at hand."""
    batches = [make_batch(one.examples.features, trainer.schema).sparse() for one in inputs]
    gradient = torch.full((len(inputs[0].labels), NUM_FEATURES * DIM), 1e-6)

    def step(index: int) -> None:
        trainer.bags(batches[index % len(batches)]).values().backward(gradient)

    return step


def tower() -> nn.Sequential:
    """Return the tower and its head in plain torch."""
    sizes = (NUM_FEATURES * DIM + NUM_DENSE, *TOWER)
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], 1))


def torch_step(rows: nn.EmbeddingBag, inputs: list[Input], *, bf16: bool) -> Callable[[int], None]:
    """Return one step of DeepFM in plain torch: component 0 of a row is its first-order weight, as in ours."""
    dense_part = tower()
    dense_optimizer = torch.optim.Adam(dense_part.parameters(), lr=LR, fused=True)
    row_optimizer = torch.optim.SGD(rows.parameters(), lr=LR)
    offsets = torch.arange(len(inputs[0].numbers))

    def step(index: int) -> None:
        batch = inputs[index % len(inputs)]
        pooled = rows(batch.numbers, offsets).view(-1, NUM_FEATURES, DIM)  # (B, F, D)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            factors = pooled[:, :, 1:]
            pairs = 0.5 * (factors.sum(1).square().sum(1) - factors.square().sum((1, 2)))  # (B,)
            deep = dense_part(torch.cat((pooled.flatten(1), batch.dense), 1)).squeeze(1)
            logits = deep + pooled[:, :, 0].sum(1) + pairs
        binary_cross_entropy_with_logits(logits.float(), batch.labels).backward()
        dense_optimizer.step()
        row_optimizer.step()
        dense_optimizer.zero_grad()
        row_optimizer.zero_grad()

    return step


def mlp_step(inputs: list[Input]) -> Callable[[int], None]:
    """Return one step of the tower alone, in the precision of the trainer, down to the gradient of its input."""
    dense_part = tower()
    optimizer = torch.optim.Adam(dense_part.parameters(), lr=LR, fused=True)
    given = torch.randn(len(inputs[0].labels), NUM_FEATURES * DIM + NUM_DENSE, requires_grad=True)

    def step(index: int) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=computes_in_bf16("auto")):
            logits = dense_part(given).squeeze(1)
        binary_cross_entropy_with_logits(logits.float(), inputs[index % len(inputs)].labels).backward()
        optimizer.step()
        optimizer.zero_grad()
        given.grad = None

    return step


if __name__ == "__main__":
    main()
