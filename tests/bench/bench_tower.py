"""Sparse towers against dense ones: forward, the whole step of learning, and what moving the topology costs.

Tower 1024-512-256-128 with bias and ReLU. Forward: weights packed for serving, against the faster of torch's linear and oneDNN's prepacked
one. Step: forward, both backward products, Adam; against nn.Linear under autograd with fused Adam, and against the best dense step that
can be put together, each product at the faster of the two. Both sides compute in the precision that the figure names.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from itertools import pairwise

import torch
from figures import figure, interleaved, print_machine
from torch import Tensor, nn
from torch.nn.functional import linear

from monolith_py import _core
from monolith_py.config.sparsity import SparsityConfig
from monolith_py.tower import AtomOptimizer, AtomRule, ParameterOptimizer, TopologyUpdater, Tower

INPUTS, SIZES = 1024, (512, 256, 128)
DENSITIES = {"80": 0.2, "90": 0.1}
BATCHES = (1, 32, 256, 2048)
STEP_BATCHES = (256, 2048)
ROWS = 1024  # that forward takes in one round, so that a round is longer than it takes to wake a thread
THREADS = (1, 2)
EVERY = 100  # steps between swaps
LR = 1e-3
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}

Call = Callable[[int], object]


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few rounds, to see that all of it runs")
    options = parser.parse_args()
    print_machine(*THREADS)
    _core.keep_freed_memory()  # as processes that train do; all contestants gain
    for threads in THREADS:
        torch.set_num_threads(threads)
        _core.set_num_threads(threads)
        for precision in PRECISIONS:
            if precision == "bf16" and not _core.has_amx():
                continue
            rounds = 3 if options.quick else 60
            for batch in BATCHES:
                forward(batch, precision, threads, rounds, 1 if options.quick else max(1, ROWS // batch))
            for batch in STEP_BATCHES:
                step(batch, precision, threads, 2 if options.quick else 20)
        topology_overhead(threads, 1 if options.quick else 5, 64 if options.quick else 2048)


def name_of(name: str, precision: str, *parts: object) -> str:
    """Return a figure's name; bf16 is named, fp32 is not."""
    return ".".join([name if precision == "fp32" else f"{name}_bf16", *map(str, parts)])


def tower_of(density: float, precision: str) -> Tower:
    """Return the tower with a topology of chance."""
    torch.manual_seed(0)
    return Tower(INPUTS, SIZES, sparsity=SparsityConfig(preset="static", density=density), bf16=precision == "bf16")


def dense_layers() -> list[nn.Linear]:
    """Return the layers of the dense tower."""
    torch.manual_seed(0)
    return [nn.Linear(inputs, outputs) for inputs, outputs in pairwise((INPUTS, *SIZES))]


def forward(batch: int, precision: str, threads: int, rounds: int, repeats: int) -> None:
    """Time the packed towers on one batch, `repeats` times a round."""
    dtype = PRECISIONS[precision]
    inputs = torch.randn(batch, INPUTS)
    calls: dict[str, Call] = {}
    for name, density in DENSITIES.items():
        tower = tower_of(density, precision)
        tower.freeze()
        calls[name] = _repeated(tower, inputs, repeats)
    weights = [(layer.weight.detach().to(dtype), layer.bias.detach().to(dtype)) for layer in dense_layers()]
    packed = [(torch.ops.mkldnn._reorder_linear_weight(weight, batch), bias) for weight, bias in weights]
    calls["linear"] = _repeated(lambda x: _through(x, weights, lambda x, w, b: torch.relu_(linear(x, w, b))), inputs.to(dtype), repeats)
    calls["onednn"] = _repeated(lambda x: _through(x, packed, _onednn), inputs.to(dtype), repeats)
    with torch.inference_mode():
        medians = interleaved(calls, rounds, warmup=10 if rounds > 10 else 1)
    best = min(medians["linear"], medians["onednn"])
    for name in DENSITIES:
        figure(name_of("tower.forward_vs_best_dense", precision, name, f"b{batch}", f"threads{threads}"), best / medians[name], "ratio")
    figure(name_of("tower.forward_us", precision, "90", f"b{batch}", f"threads{threads}"), medians["90"] / repeats * 1e6, "us")


def step(batch: int, precision: str, threads: int, rounds: int) -> None:
    """Time whole steps of learning on one batch."""
    inputs, pull = torch.randn(batch, INPUTS, requires_grad=True), torch.randn(batch, SIZES[-1]) / batch
    ours = {name: _our_step(tower_of(density, precision), inputs, pull) for name, density in DENSITIES.items()}
    layers = dense_layers()
    adam = torch.optim.Adam([parameter for layer in layers for parameter in layer.parameters()], lr=LR, fused=True)
    calls: dict[str, Call] = {**ours, "linear": _linear_step(layers, adam, inputs, pull, precision), "adam": lambda _: adam.step()}
    products = _products(batch, PRECISIONS[precision])
    medians = interleaved({**calls, **products}, rounds, warmup=10 if rounds > 10 else 1)
    best = medians["adam"] + sum(min(medians[name], medians[f"{name}.onednn"]) for name in products if not name.endswith(".onednn"))
    suffix = (f"b{batch}", f"threads{threads}")
    for name in DENSITIES:
        figure(name_of("tower.step_vs_linear", precision, name, *suffix), medians["linear"] / medians[name], "ratio")
    figure(name_of("tower.step_vs_best_dense", precision, "90", *suffix), best / medians["90"], "ratio")
    figure(name_of("tower.step_ms", precision, "90", *suffix), medians["90"] * 1e3, "ms")


def topology_overhead(threads: int, rounds: int, batch: int) -> None:
    """Time 100 steps with a swap among them, and 100 without, in turns."""
    inputs, pull = torch.randn(batch, INPUTS, requires_grad=True), torch.randn(batch, SIZES[-1]) / batch
    for name, density in DENSITIES.items():
        calls = {}
        for kind, settings in (
            ("still", {"preset": "static"}),
            ("moving", {"preset": "dsl_online", "ramp": None, "update_interval": EVERY}),
        ):
            config = SparsityConfig(density=density, **settings)
            torch.manual_seed(0)
            calls[kind] = _hundred(Tower(INPUTS, SIZES, sparsity=config), config, inputs, pull)
        medians = interleaved(calls, rounds, warmup=1)
        share = (medians["moving"] - medians["still"]) / medians["moving"]
        figure(f"tower.topology_overhead.{name}.threads{threads}", share, "ratio")


def _repeated(call: Callable[[Tensor], object], inputs: Tensor, repeats: int) -> Call:
    def run(_: int) -> None:
        for _ in range(repeats):
            call(inputs)

    return run


def _through(outputs: Tensor, weights: list[tuple[Tensor, Tensor]], layer: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
    for weight, bias in weights:
        outputs = layer(outputs, weight, bias)
    return outputs


def _onednn(inputs: Tensor, packed: Tensor, bias: Tensor) -> Tensor:
    outputs: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, packed, bias, "relu", [], "")
    return outputs


def _our_step(tower: Tower, inputs: Tensor, pull: Tensor) -> Call:
    """Return forward, backward and both optimizers of a sparse tower."""
    atoms, biases = AtomOptimizer(tower.sparse_layers, AtomRule()), _biases_of(tower)

    def run(_: int) -> None:
        inputs.grad = None
        for parameter in tower.parameters():
            parameter.grad = None
        tower(inputs).backward(pull)
        biases.step(LR)
        atoms.step(LR)

    return run


def _biases_of(tower: Tower) -> ParameterOptimizer:
    return ParameterOptimizer({str(index): layer.bias for index, layer in enumerate(tower.sparse_layers)}, AtomRule())


def _hundred(tower: Tower, config: SparsityConfig, inputs: Tensor, pull: Tensor) -> Call:
    """Return as many steps as lie between swaps, the last with a swap where the settings have one."""
    atoms, biases = AtomOptimizer(tower.sparse_layers, AtomRule(), config.newborn), _biases_of(tower)
    updater = TopologyUpdater(tower.sparse_layers, atoms, config, seed=0)

    def run(_: int) -> None:
        for _ in range(EVERY):
            inputs.grad = None
            for parameter in tower.parameters():
                parameter.grad = None
            updater.before_backward()
            tower(inputs).backward(pull)
            updater.after_backward(len(inputs))
            biases.step(LR)
            atoms.step(LR)
            updater.after_step(0.5, len(inputs))

    return run


def _linear_step(layers: list[nn.Linear], adam: torch.optim.Optimizer, inputs: Tensor, pull: Tensor, precision: str) -> Call:
    tower = nn.Sequential(*(module for layer in layers for module in (layer, nn.ReLU())))

    def run(_: int) -> None:
        inputs.grad = None
        adam.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            outputs = tower(inputs)
        outputs.float().backward(pull)
        adam.step()

    return run


def _products(batch: int, dtype: torch.dtype) -> dict[str, Call]:
    """Return the three products of each dense layer, each by torch and by oneDNN; what varies from step to step is packed in the call."""
    calls: dict[str, Call] = {}
    for index, (inputs, outputs) in enumerate(pairwise((INPUTS, *SIZES))):
        x, dy, weight = torch.randn(batch, inputs).to(dtype), torch.randn(batch, outputs).to(dtype), torch.randn(outputs, inputs).to(dtype)
        for name, left, right in (("forward", x, weight), ("dx", dy, weight.T.contiguous()), ("dw", dy.T.contiguous(), x.T.contiguous())):
            calls[f"{name}{index}"] = lambda _, left=left, right=right: linear(left, right)  # type: ignore[misc]
            calls[f"{name}{index}.onednn"] = lambda _, left=left, right=right: _packed_and_multiplied(left, right)  # type: ignore[misc]
    return calls


def _packed_and_multiplied(left: Tensor, right: Tensor) -> Tensor:
    packed = torch.ops.mkldnn._reorder_linear_weight(right, len(left))
    outputs: Tensor = torch.ops.mkldnn._linear_pointwise(left, packed, None, "none", [], "")
    return outputs


if __name__ == "__main__":
    main()
