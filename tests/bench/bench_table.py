"""The embedding table in one process, held against FBGEMM, torch, a plain hash map, the disk and what the memory allows.

Batches hold 65,536 64-bit fids. A step hashes, finds or inserts, pools, and updates the rows; the others take row numbers.
What each figure divides by what stands in tests/bench/RESULTS.md. The tables have no consumer of deltas here.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
from fbgemm_gpu.split_table_batched_embeddings_ops_training import ComputeDevice, SplitTableBatchedEmbeddingBagsCodegen
from figures import figure, interleaved, print_machine
from limits import BareRows, compile_limits
from table_alone import NOW_S, bench_growth, bench_memory, bench_snapshot, bench_threads, fill, resident_bytes, weights_of
from torch import nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
from workload import FloatArray, Ids, RowPicker, Scale

from monolith_py import _core
from monolith_py.table import EmbeddingBags, Feature, RowwiseAdagrad, Sgd

LR, EPS = 0.01, 1e-8
GRADIENT_SCALE = 1e-3
TOLERANCE = 1e-4  # of weights after some hundred steps: sums of floats in another order
NUM_BATCHES = 40  # as many as rounds: none comes twice in a shape

Streams = Mapping[str, Sequence[Ids]]


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--dims", type=int, nargs="+", choices=(16, 32, 64), default=[16, 32, 64], help="the first has most figures")
    parser.add_argument("--threads", type=int, default=1, help="of table, FBGEMM and torch alike")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="on the disk that tables are saved to")
    parser.add_argument("--quick", action="store_true", help="a few small batches, to see that all of it runs")
    parser.add_argument("--busy", action="store_true", help="time by the processor time of the calling thread: use one thread")
    options = parser.parse_args()
    clock = time.thread_time if options.busy else time.perf_counter
    scale = Scale(options.rows, 65_536, rounds=30, warmup=10, threads=options.threads, clock=clock)
    if options.quick:
        scale = Scale(20_000, 2048, rounds=3, warmup=1, threads=options.threads, clock=clock)
    torch.set_num_threads(scale.threads)
    _core.set_num_threads(scale.threads)
    print_machine(scale.threads)
    generator = np.random.default_rng(0)
    picker = RowPicker(scale.rows, generator)
    streams = {stream: [Ids.of(picker.draw(stream, scale.batch)) for _ in range(NUM_BATCHES)] for stream in ("uniform", "zipf")}
    del picker
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        library = compile_limits(folder)
        first, *others = options.dims
        bench_first(scale, first, streams, library, folder)
        for dim in others:
            bags = EmbeddingBags([Feature("f", dim)], RowwiseAdagrad(lr=LR, eps=EPS))
            fill(bags.tables["f"].core, scale.rows)
            bench_fbgemm(scale, bags, streams)
            bench_limits(scale, bags, streams, library)
            del bags
            gc.collect()
        bench_torch(scale, first, streams)
        bench_growth(scale, first, library)


def bench_first(scale: Scale, dim: int, streams: Streams, library: ctypes.CDLL, folder: Path) -> None:
    """All that is measured with a full table, of one dim."""
    bags = EmbeddingBags([Feature("f", dim)], RowwiseAdagrad(lr=LR, eps=EPS))
    core = bags.tables["f"].core
    resident = resident_bytes()
    fill(core, scale.rows)
    bench_memory(core, resident_bytes() - resident)
    bench_fbgemm(scale, bags, streams)
    bench_bags(scale, bags, streams)
    bench_limits(scale, bags, streams, library)
    bench_threads(scale, core, streams["uniform"], gradients_of(scale.batch, dim))
    bench_snapshot(scale, core, streams["uniform"], folder)
    del bags, core
    gc.collect()


def gradients_of(num_bags: int, dim: int) -> FloatArray:
    """Return small gradients, (num_bags, dim)."""
    return np.random.default_rng(1).normal(0, GRADIENT_SCALE, (num_bags, dim)).astype(np.float32)


def core_step(core: _core.Table, batches: Sequence[Ids], gradients: FloatArray, pooled: FloatArray) -> Callable[[int], None]:
    """Return one step of our table: hash, find or insert, pool into `pooled`; then sum duplicates and update by `gradients`, (bags, D)."""
    num_fids = len(batches[0].fids)
    offsets = np.arange(0, num_fids + 1, num_fids // len(gradients))
    rows = np.empty(num_fids, np.uint32)

    def step(index: int) -> None:
        fids = batches[index % len(batches)].fids
        released = _core.pooled_forward([core], fids, offsets, None, [0], NOW_S, [True], pooled, rows)
        _core.pooled_backward([core], fids, rows, released, offsets, None, [0], gradients)

    return step


def fbgemm_of(core: _core.Table, num_rows: int) -> SplitTableBatchedEmbeddingBagsCodegen:
    """Return FBGEMM's table with our rows by number, all its memory touched."""
    tbe = SplitTableBatchedEmbeddingBagsCodegen(
        [(num_rows, core.dim, EmbeddingLocation.HOST, ComputeDevice.CPU)],
        optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD,
        learning_rate=LR,
        eps=EPS,
        stochastic_rounding=False,
    )
    (weights,) = tbe.split_embedding_weights()
    for first, values in weights_of(core, num_rows):
        weights[first : first + len(values)] = torch.from_numpy(values)
    tbe.split_optimizer_states()[0][0].fill_(0.0)
    return tbe


def fbgemm_step(tbe: SplitTableBatchedEmbeddingBagsCodegen, batches: Sequence[Ids], pool: int, dim: int) -> Callable[[int], None]:
    """Return one step of FBGEMM's table: forward, then backward, which updates."""
    numbers = [torch.from_numpy(ids.numbers) for ids in batches]
    offsets = torch.arange(0, len(numbers[0]) + 1, pool)
    gradients = torch.from_numpy(gradients_of(len(offsets) - 1, dim))
    return lambda index: tbe(numbers[index % len(numbers)], offsets).backward(gradients)


def bench_fbgemm(scale: Scale, bags: EmbeddingBags, streams: Streams) -> None:
    """Steps with row-wise Adagrad against FBGEMM on row numbers, and whether both end in the same rows."""
    core = bags.tables["f"].core
    tbe = fbgemm_of(core, scale.rows)
    for stream, batches in streams.items():
        for pool in (1, 8):
            gradients = gradients_of(scale.batch // pool, core.dim)
            ours = core_step(core, batches, gradients, np.empty_like(gradients))
            calls = {"ours": ours, "fbgemm": fbgemm_step(tbe, batches, pool, core.dim)}
            medians = interleaved(calls, scale.rounds, warmup=scale.warmup, clock=scale.clock)
            shape = f"{stream}.dim{core.dim}" + (f".pool{pool}" if pool > 1 else "")
            figure(f"table.step_vs_fbgemm.{shape}", medians["fbgemm"] / medians["ours"], "ratio")
            figure(f"table.step_ns.{shape}", medians["ours"] / scale.batch * 1e9, "ns/id")
    (weights,) = tbe.split_embedding_weights()
    assert_equal(core, weights, scale.rows)


def assert_equal(core: _core.Table, weights: torch.Tensor, num_rows: int) -> None:
    """Fail unless the other's weights (num_rows, dim) are ours: then not both have done the same work."""
    for first, values in weights_of(core, num_rows):
        np.testing.assert_allclose(weights[first : first + len(values)].numpy(), values, atol=TOLERANCE)


def bench_bags(scale: Scale, bags: EmbeddingBags, streams: Streams) -> None:
    """The same through our torch module, KeyedJaggedTensor in and gradients back, against FBGEMM's module."""
    core = bags.tables["f"].core
    tbe = fbgemm_of(core, scale.rows)
    bags.now_s = NOW_S
    gradients = torch.from_numpy(gradients_of(scale.batch, core.dim))
    lengths, offsets = torch.ones(scale.batch, dtype=torch.int32), torch.arange(scale.batch + 1)
    for stream, batches in streams.items():
        inputs = [KeyedJaggedTensor(["f"], torch.from_numpy(ids.fids), lengths=lengths, offsets=offsets) for ids in batches]

        def step(index: int, inputs: list[KeyedJaggedTensor] = inputs) -> None:
            bags(inputs[index % len(inputs)]).values().backward(gradients)

        calls = {"ours": step, "fbgemm": fbgemm_step(tbe, batches, 1, core.dim)}
        medians = interleaved(calls, scale.rounds, warmup=scale.warmup, clock=scale.clock)
        figure(f"table.bags_step_vs_fbgemm.{stream}.dim{core.dim}", medians["fbgemm"] / medians["ours"], "ratio")


def bench_torch(scale: Scale, dim: int, streams: Streams) -> None:
    """Steps with plain SGD against nn.EmbeddingBag with sparse gradients and torch.optim.SGD."""
    bags = EmbeddingBags([Feature("f", dim)], Sgd(lr=LR))
    core = bags.tables["f"].core
    fill(core, scale.rows)
    plain = nn.EmbeddingBag(scale.rows, dim, mode="sum", sparse=True, _weight=torch.empty(scale.rows, dim))
    optimizer = torch.optim.SGD(plain.parameters(), lr=LR)
    for first, values in weights_of(core, scale.rows):
        plain.weight.data[first : first + len(values)] = torch.from_numpy(values)
    offsets = torch.arange(scale.batch)
    gradients = torch.from_numpy(gradients_of(scale.batch, dim))
    for stream, batches in streams.items():
        numbers = [torch.from_numpy(ids.numbers) for ids in batches]

        def step(index: int, numbers: list[torch.Tensor] = numbers) -> None:
            plain(numbers[index % len(numbers)], offsets).backward(gradients)
            optimizer.step()
            optimizer.zero_grad()

        ours = core_step(core, batches, gradients.numpy(), np.empty((scale.batch, dim), np.float32))
        medians = interleaved({"ours": ours, "torch": step}, scale.rounds, warmup=scale.warmup, clock=scale.clock)
        figure(f"table.step_vs_torch_sgd.{stream}.dim{dim}", medians["torch"] / medians["ours"], "ratio")
    assert_equal(core, plain.weight.detach(), scale.rows)


def bench_limits(scale: Scale, bags: EmbeddingBags, streams: Streams, library: ctypes.CDLL) -> None:
    """Each operation of the table alone, against the memory traffic that it cannot do without."""
    core = bags.tables["f"].core
    bare = BareRows(library, scale.rows, core.dim, np.random.default_rng(2))
    check_bare(bare, streams["zipf"][0])
    for stream, batches in streams.items():
        medians = interleaved(operations(core, bare, batches), scale.rounds, warmup=scale.warmup, clock=scale.clock)
        per_id = {name: seconds / scale.batch * 1e9 for name, seconds in medians.items()}
        shape = f"{stream}.dim{core.dim}"
        parts = per_id["find_or_insert"] + per_id["gather"] + per_id["update"]
        figure(f"table.step_vs_parts.{shape}", per_id.pop("step") / parts, "ratio")
        figure(f"table.lookup_vs_limit.{shape}", per_id["lookup"] / per_id["limit_lookup"], "ratio")
        figure(f"table.update_vs_limit.{shape}", per_id["update"] / per_id["limit_update"], "ratio")
        figure(f"table.update_vs_limit_with_state.{shape}", per_id["update"] / per_id["limit_update_with_state"], "ratio")
        for name, value in per_id.items():
            figure(f"table.{name}_ns.{shape}", value, "ns/id")
    bare.close()


def operations(core: _core.Table, bare: BareRows, batches: Sequence[Ids]) -> dict[str, Callable[[int], object]]:
    """Return the calls to time; in one round no two of ours get the same batch, which would be in the cache."""
    gradients = gradients_of(len(batches[0].fids), core.dim)
    weights, found = np.empty_like(gradients), np.empty(len(gradients), np.uint32)
    known, places, numbers = [], [], []
    for ids in batches:
        rows = np.empty(len(gradients), np.uint32)
        core.find(ids.fids, rows)
        assert (rows != _core.NO_ROW).all()
        known.append(rows)
        places.append(bare.places(ids.numbers))
        numbers.append(ids.numbers.astype(np.uint32))

    def fids(index: int) -> np.ndarray:
        return batches[index % len(batches)].fids

    def lookup(index: int) -> None:
        core.find(fids(index), found)
        core.gather(found, weights)

    return {
        "step": core_step(core, [*batches[4:], *batches[:4]], gradients, weights),
        "find": lambda index: core.find(fids(index + 8), found),
        "find_or_insert": lambda index: core.find_or_insert(fids(index + 16), NOW_S, found),
        "gather": lambda index: core.gather(known[(index + 24) % len(known)], weights),
        "lookup": lookup,
        "limit_lookup": lambda index: bare.probe_gather(places[index % len(places)], weights),
        "update": lambda index: core.update(known[(index + 32) % len(known)], gradients),
        "limit_update": lambda index: bare.sort_update(numbers[index % len(numbers)], gradients, LR),
        "limit_update_with_state": lambda index: bare.sort_update(numbers[(index + 36) % len(numbers)], gradients, LR, with_state=True),
    }


def check_bare(bare: BareRows, ids: Ids) -> None:
    """Fail unless the limits really read and write the rows asked for; leaves zeros."""
    out = np.empty((len(ids.numbers), bare.weights.shape[1]), np.float32)
    bare.weights[:, -1] = np.arange(len(bare.weights))
    bare.probe_gather(bare.places(ids.numbers), out)
    assert np.array_equal(out[:, -1], ids.numbers.astype(np.float32))
    bare.weights[:] = 0
    bare.sort_update(ids.numbers.astype(np.uint32), np.ones_like(out), -1.0)
    assert np.array_equal(bare.weights[:, 0], np.bincount(ids.numbers, minlength=len(bare.weights)))
    bare.weights[:] = 0


if __name__ == "__main__":
    main()
