"""A sparse tower in the core against the same tower dense: forward, and the whole training step with Adam.

Tower 1024-512-256-128 with bias and ReLU in each layer; 80 and 90 of 100 atoms of 16 outputs x 1 input are dead, at random. Dense is
the faster of F.linear and oneDNN with weights it has laid out ahead. The step is forward, gradients of weights and inputs, and Adam.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from figures import figure, interleaved, print_machine
from torch import Tensor, nn
from torch.nn.functional import linear

from monolith_py import _core
from monolith_py.model import computes_in_bf16

SIZES = (1024, 512, 256, 128)
SPARSITIES = (80, 90)  # of 100
BATCHES = (1, 32, 256, 2048)
STEP_BATCHES = (256, 2048)
THREADS = (1, 2)
HEIGHT = 16
ADAM = (1e-3, 0.9, 0.999, 1e-8)
PER_ROUND_S = 2e-3  # short calls are repeated to about that long

FloatArray = npt.NDArray[np.float32]
Call = Callable[[int], object]


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few rounds, to see that all of it runs")
    options = parser.parse_args()
    rounds, warmup = (2, 1) if options.quick else (15, 5)
    print_machine(*THREADS)
    precisions = [torch.float32, torch.bfloat16] if computes_in_bf16("auto") else [torch.float32]
    for threads in THREADS:
        torch.set_num_threads(threads)
        _core.set_num_threads(threads)
        for dtype in precisions:
            suffix = f"{'.bf16' if dtype is torch.bfloat16 else ''}.threads{threads}"
            for batch in BATCHES:
                report_forward(batch, dtype, suffix, rounds, warmup)
            for batch in STEP_BATCHES:
                report_step(batch, dtype, suffix, rounds, warmup)


class SparseTower:
    """The tower in the core, with Adam's state; `step` is one training step."""

    def __init__(self, sparsity: int, batch: int, dtype: torch.dtype, generator: np.random.Generator) -> None:
        """Make the tower and a batch for it."""
        self.stack = _core.TowerStack(
            [(width_in, width_out, True) for width_in, width_out in pairwise(SIZES)], HEIGHT, dtype is torch.bfloat16
        )
        self.values: list[FloatArray] = []
        self.biases: list[FloatArray] = []
        for layer, (width_in, width_out) in enumerate(pairwise(SIZES)):
            blocks = width_out // HEIGHT
            live = np.zeros(blocks * width_in, bool)
            live[generator.permutation(live.size)[: round(live.size * (100 - sparsity) / 100)]] = True
            mask = live.reshape(blocks, width_in)
            self.stack.set_topology(layer, np.append(0, np.cumsum(mask.sum(1))).astype(np.uint32), np.nonzero(mask)[1].astype(np.int32))
            scale = np.sqrt(200 / (100 - sparsity) / width_in)
            self.values.append((scale * generator.normal(size=(int(mask.sum()), HEIGHT))).astype(np.float32))
            self.biases.append(np.zeros(width_out, np.float32))
        self.stack.load(self.values, self.biases)
        self.inputs, self.grad_inputs = torch.randn(batch, SIZES[0]).numpy(), torch.empty(batch, SIZES[0]).numpy()
        self.outputs, self.grad_outputs = torch.empty(batch, SIZES[-1]).numpy(), torch.randn(batch, SIZES[-1]).numpy()
        self._grad_values, self._grad_biases = [np.empty_like(a) for a in self.values], [np.empty_like(a) for a in self.biases]
        grads = [*self._grad_values, *(a.reshape(-1, 1) for a in self._grad_biases)]
        weights = [*self.values, *(a.reshape(-1, 1) for a in self.biases)]
        self._adam = [
            (weight, grad, np.zeros_like(weight), np.zeros_like(weight), np.zeros(len(weight), np.uint32), *ADAM)
            for weight, grad in zip(weights, grads, strict=True)
        ]

    def forward(self) -> None:
        """Compute the outputs."""
        self.stack.forward([self.inputs], self.outputs)

    def step(self) -> None:
        """Forward, backward, Adam."""
        tape = self.stack.forward_tape([self.inputs], self.outputs)
        self.stack.backward(tape, self.grad_outputs, [self.grad_inputs], self._grad_values, self._grad_biases, None)
        for arguments in self._adam:
            _core.tower_adam(*arguments)
        self.stack.load(self.values, self.biases)


def repeated(call: Callable[[], object], seconds: float) -> Call:
    """Return the call made as often as takes about PER_ROUND_S; `seconds` is what one takes."""
    times = max(1, int(PER_ROUND_S / seconds))

    def run(_: int) -> None:
        for _ in range(times):
            call()

    run.times = times  # type: ignore[attr-defined]
    return run


def medians(calls: Mapping[str, Callable[[], object]], rounds: int, warmup: int) -> dict[str, float]:
    """Return the median seconds of one call of each, in turns."""
    once = interleaved({name: lambda _, call=call: call() for name, call in calls.items()}, 1, warmup=2)  # type: ignore[misc]
    many = {name: repeated(call, once[name]) for name, call in calls.items()}
    times = interleaved(many, rounds, warmup=warmup)
    return {name: seconds / many[name].times for name, seconds in times.items()}  # type: ignore[attr-defined]


def report_forward(batch: int, dtype: torch.dtype, suffix: str, rounds: int, warmup: int) -> None:
    """Print forward's ratios and times at one batch size."""
    generator = np.random.default_rng(0)
    sparse = {sparsity: SparseTower(sparsity, batch, dtype, generator) for sparsity in SPARSITIES}
    inputs = torch.randn(batch, SIZES[0], dtype=dtype)
    weights = [torch.randn(width_out, width_in, dtype=dtype) / width_in**0.5 for width_in, width_out in pairwise(SIZES)]
    biases = [torch.zeros(width_out, dtype=dtype) for width_out in SIZES[1:]]

    def by_linear() -> Tensor:
        outputs = inputs
        for weight, bias in zip(weights, biases, strict=True):
            outputs = linear(outputs, weight, bias).relu_()
        return outputs

    with torch.inference_mode():
        packed = [torch.ops.mkldnn._reorder_linear_weight(weight, batch) for weight in weights]

        def by_onednn() -> Tensor:
            outputs = inputs
            for weight, bias in zip(packed, biases, strict=True):
                outputs = torch.ops.mkldnn._linear_pointwise(outputs, weight, bias, "relu", [], "")
            return outputs

        torch.testing.assert_close(by_linear(), by_onednn(), rtol=0.05, atol=0.05)
        calls: dict[str, Callable[[], object]] = {"linear": by_linear, "onednn": by_onednn}
        times = medians(calls | {str(sparsity): tower.forward for sparsity, tower in sparse.items()}, rounds, warmup)
    best = min(times["linear"], times["onednn"])
    figure(f"tower.forward_dense_us.b{batch}{suffix}", best * 1e6, "us")
    for sparsity in SPARSITIES:
        figure(f"tower.forward_us.{sparsity}.b{batch}{suffix}", times[str(sparsity)] * 1e6, "us")
        figure(f"tower.forward_vs_best_dense.{sparsity}.b{batch}{suffix}", best / times[str(sparsity)], "ratio")


def linear_step(batch: int, dtype: torch.dtype) -> Callable[[], object]:
    """Return the step of nn.Linear under autograd with fused Adam; in bf16 weights are cast at each use, as under autocast."""
    layers: list[nn.Module] = []
    for width_in, width_out in pairwise(SIZES):
        layers += [nn.Linear(width_in, width_out), nn.ReLU()]
    tower = nn.Sequential(*layers)
    optimizer = torch.optim.Adam(tower.parameters(), lr=ADAM[0], betas=ADAM[1:3], eps=ADAM[3], fused=True)
    inputs = torch.randn(batch, SIZES[0], requires_grad=True)
    gradient = torch.randn(batch, SIZES[-1], dtype=dtype)

    def step() -> None:
        optimizer.zero_grad()
        inputs.grad = None
        with torch.autocast("cpu", dtype, enabled=dtype is not torch.float32):
            outputs = tower(inputs)
        outputs.backward(gradient)
        optimizer.step()

    return step


def dense_products(batch: int, dtype: torch.dtype) -> dict[str, Callable[[], object]]:
    """Return the nine products of a dense step, each by F.linear and by oneDNN with one side laid out ahead, which is not counted."""
    calls: dict[str, Callable[[], object]] = {}
    for layer, (width_in, width_out) in enumerate(pairwise(SIZES)):
        inputs, gradients = torch.randn(batch, width_in, dtype=dtype), torch.randn(batch, width_out, dtype=dtype)
        weight = torch.randn(width_out, width_in, dtype=dtype)
        operands = {"y": (inputs, weight), "dx": (gradients, weight.t().contiguous()), "dw": (gradients.t(), inputs.t())}
        for name, (left, right) in operands.items():
            packed = torch.ops.mkldnn._reorder_linear_weight(right.contiguous(), len(left))
            left_rows = left.contiguous()
            calls[f"{layer}.{name}.linear"] = lambda left=left, right=right: linear(left, right)  # type: ignore[misc]
            calls[f"{layer}.{name}.onednn"] = lambda left=left_rows, packed=packed: torch.ops.mkldnn._linear_pointwise(  # type: ignore[misc]
                left, packed, None, "none", [], ""
            )
    return calls


def dense_adam() -> Callable[[], object]:
    """Return the fused Adam step of the dense tower."""
    weights = [torch.zeros(shape) for width_in, width_out in pairwise(SIZES) for shape in ((width_out, width_in), (width_out,))]
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    return torch.optim.Adam(weights, lr=ADAM[0], betas=ADAM[1:3], eps=ADAM[3], fused=True).step


def report_step(batch: int, dtype: torch.dtype, suffix: str, rounds: int, warmup: int) -> None:
    """Print the training step's ratios and times at one batch size."""
    generator = np.random.default_rng(0)
    sparse = {sparsity: SparseTower(sparsity, batch, dtype, generator) for sparsity in SPARSITIES}
    calls: dict[str, Callable[[], object]] = {"linear": linear_step(batch, dtype)}
    times = medians(calls | {str(sparsity): tower.step for sparsity, tower in sparse.items()}, rounds, warmup)
    figure(f"tower.step_linear_us.b{batch}{suffix}", times["linear"] * 1e6, "us")
    for sparsity in SPARSITIES:
        figure(f"tower.step_us.{sparsity}.b{batch}{suffix}", times[str(sparsity)] * 1e6, "us")
        figure(f"tower.step_vs_linear.{sparsity}.b{batch}{suffix}", times["linear"] / times[str(sparsity)], "ratio")
    assert all(np.isfinite(values).all() for tower in sparse.values() for values in tower.values)
    sparsity = SPARSITIES[-1]
    with torch.inference_mode():
        parts = medians(dense_products(batch, dtype) | {"adam": dense_adam(), "ours": sparse[sparsity].step}, rounds, warmup)
    products = {name.rpartition(".")[0] for name in parts if "." in name}
    best = parts["adam"] + sum(min(parts[f"{name}.linear"], parts[f"{name}.onednn"]) for name in products)
    figure(f"tower.step_vs_best_dense.{sparsity}.b{batch}{suffix}", best / parts["ours"], "ratio")


if __name__ == "__main__":
    main()
