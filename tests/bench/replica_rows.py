"""Rows of a replica: packing and applying deltas, look-up beside FBGEMM alone on row numbers, memory. By CPU time of the calling thread."""

from __future__ import annotations

import itertools
import time

import numpy as np
import torch
from fbgemm_gpu.split_embedding_configs import SparseType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import BoundsCheckMode, EmbeddingLocation
from fbgemm_gpu.split_table_batched_embeddings_ops_inference import IntNBitTableBatchedEmbeddingBagsCodegen
from figures import figure, interleaved

from monolith_py.config import FeatureConfig
from monolith_py.model.batch import Batch
from monolith_py.sync import Delta, RowEncoding, decode_delta, encode_delta, pack_rows, row_bytes
from monolith_serving.replica.table import ReplicaTable

CPU = torch.device("cpu")
NUM_FEATURES, NUM_ROWS, NUM_BATCHES = 26, 40_000, 100
# Rows of one table in a publication: 100,000 updated rows a second in 36 tables, published every 0.1 s.
ROWS_OF_A_TABLE = 278


def bench_replica_rows(generator: np.random.Generator) -> None:
    """Print the figures of a replica's rows."""
    bench_deltas(generator)
    for dim in (16, 64):
        bench_lookup(generator, dim)
    bench_memory(generator)


def bench_deltas(generator: np.random.Generator) -> None:
    """Rows packed and encoded into deltas, and deltas decoded and applied; each row of a delta replaces one."""
    num_rows, dim = 8192, 16
    fids = generator.integers(-(2**62), 2**62, num_rows)
    weights = generator.normal(0, 0.1, (num_rows, dim)).astype(np.float32)

    def encode(encoding: RowEncoding, num: int = num_rows) -> bytes:
        rows = pack_rows(weights[:num], encoding)
        return encode_delta(Delta(1, 0, 1, 1, table="f", dim=dim, encoding=encoding, fids=fids[:num], rows=rows))

    for encoding in RowEncoding:
        value = encode(encoding)
        figure(f"sync.bytes_per_row.{encoding.value}", len(encode(encoding, ROWS_OF_A_TABLE)) / ROWS_OF_A_TABLE, "bytes")
        features = [FeatureConfig(name="f", source="item", dim=dim)]
        tables = {engine: ReplicaTable(features, encoding, CPU, engine=engine) for engine in ("core", "fbgemm")}

        def apply(engine: str, value: bytes = value, tables: dict[str, ReplicaTable] = tables) -> None:
            delta = decode_delta(value)
            tables[engine].assign(delta.table, delta.fids, delta.rows, delta.encoding)

        calls = {
            "encode": lambda _, encoding=encoding: encode(encoding),
            "core": lambda _, apply=apply: apply("core"),
            "fbgemm": lambda _, apply=apply: apply("fbgemm"),
        }
        medians = interleaved(calls, 50, warmup=1, clock=time.thread_time)
        assert tables["core"].digest == tables["fbgemm"].digest
        figure(f"sync.encode_rows_per_s.{encoding.value}", num_rows / medians["encode"], "rows/s")
        figure(f"serve.apply_rows_per_s.{encoding.value}", num_rows / medians["core"], "rows/s")
        figure(f"serve.apply_rows_per_s_fbgemm.{encoding.value}", num_rows / medians["fbgemm"], "rows/s")


def bench_lookup(generator: np.random.Generator, dim: int) -> None:
    """Rows found by fid and pooled, against the same rows by number in FBGEMM alone: 26 features, int8, one fid in a bag."""
    features = [FeatureConfig(name=f"f{index}", source="item", dim=dim) for index in range(NUM_FEATURES)]
    tables = {engine: ReplicaTable(features, RowEncoding.INT8, CPU, engine=engine) for engine in ("core", "fbgemm")}
    plain = IntNBitTableBatchedEmbeddingBagsCodegen(
        [("rows", NUM_FEATURES * NUM_ROWS, dim, SparseType.INT8, EmbeddingLocation.HOST)],
        feature_table_map=[0] * NUM_FEATURES,
        device="cpu",
        output_dtype=SparseType.FP32,
        bounds_check_mode=BoundsCheckMode.NONE,
    )
    plain.initialize_weights()
    (plain_rows, _), *_ = plain.split_embedding_weights(split_scale_shifts=False)
    fids = generator.integers(-(2**62), 2**62, (NUM_FEATURES, NUM_ROWS))
    for index, feature in enumerate(features):
        rows = pack_rows(generator.normal(0, 0.1, (NUM_ROWS, dim)).astype(np.float32), RowEncoding.INT8)
        for table in tables.values():
            table.assign(feature.name, fids[index], rows, RowEncoding.INT8)
        plain_rows[index * NUM_ROWS : (index + 1) * NUM_ROWS] = torch.from_numpy(rows)
    names = tuple(feature.name for feature in features)
    for batch_size in (512, 100):
        offsets = torch.arange(NUM_FEATURES * batch_size + 1, dtype=torch.int32)
        ones = np.ones(NUM_FEATURES * batch_size, np.int32)
        batches, numbers = [], []
        for _ in range(NUM_BATCHES):  # other ids in each call, as of other requests
            picks = generator.integers(0, NUM_ROWS, (NUM_FEATURES, batch_size))
            chosen = np.take_along_axis(fids, picks, axis=1).ravel()
            batches.append(Batch(batch_size, names, chosen, ones, np.zeros((batch_size, 0), np.float32)))
            numbers.append(torch.from_numpy((picks + np.arange(NUM_FEATURES)[:, None] * NUM_ROWS).ravel().astype(np.int32)))
        calls = {
            "core": lambda index, batches=batches: tables["core"].lookup(batches[index % NUM_BATCHES]),
            "fbgemm": lambda index, batches=batches: tables["fbgemm"].lookup(batches[(index + 33) % NUM_BATCHES]),
            "plain": lambda index, numbers=numbers, offsets=offsets: plain(numbers[(index + 66) % NUM_BATCHES], offsets),
        }
        with torch.inference_mode():
            assert torch.equal(calls["core"](66), calls["plain"](0))
            assert torch.equal(calls["core"](33), calls["fbgemm"](0))
            # In pairs: a third contestant would take its share of the caches.
            alone, beside = (
                interleaved({name: calls[name] for name in (engine, "plain")}, 500, warmup=20, clock=time.thread_time)
                for engine in ("core", "fbgemm")
            )
        num_ids = NUM_FEATURES * batch_size
        figure(f"serve.lookup_ns_per_id.dim{dim}.rows{batch_size}", alone["core"] / num_ids * 1e9, "ns")
        figure(f"serve.lookup_vs_raw_tbe.dim{dim}.rows{batch_size}", alone["plain"] / alone["core"], "ratio")
        figure(f"serve.lookup_vs_raw_tbe_fbgemm.dim{dim}.rows{batch_size}", beside["plain"] / beside["fbgemm"], "ratio")


def bench_memory(generator: np.random.Generator) -> None:
    """Bytes of rows and id maps for each row, 36 features filled by deltas: the mean over sizes, as maps grow by steps."""
    dim, sizes = 16, []
    features = [FeatureConfig(name=f"f{index}", source="item", dim=dim) for index in range(36)]
    table = ReplicaTable(features, RowEncoding.INT8, CPU)
    rows = np.zeros((2048, row_bytes(dim, RowEncoding.INT8)), np.uint8)
    began_s, num_bytes = time.thread_time(), 0.0
    for step, feature in itertools.product(range(50), features):
        table.assign(feature.name, generator.integers(-(2**62), 2**62, 2048), rows, RowEncoding.INT8)
        if step >= 20 and feature is features[-1]:
            num_bytes = table.num_bytes / table.num_rows
            sizes.append(num_bytes)
    figure("serve.insert_rows_per_s.int8", table.num_rows / (time.thread_time() - began_s), "rows/s")
    figure("serve.bytes_per_row_int8_dim16", float(np.mean(sizes)), "bytes")
    figure("serve.bytes_per_row_int8_dim16_most", max(sizes), "bytes")


if __name__ == "__main__":
    torch.set_num_threads(1)
    bench_replica_rows(np.random.default_rng(0))
