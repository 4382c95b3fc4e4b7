"""Parameter sync and serving in a second: look-up against plain FBGEMM, encoding and applying deltas, and a real replica under load.

36 features of dim 16, two tasks, int8 rows. The replica is a process of its own; the client shares the machine with it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from fbgemm_gpu.split_embedding_configs import SparseType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import BoundsCheckMode, EmbeddingLocation
from fbgemm_gpu.split_table_batched_embeddings_ops_inference import IntNBitTableBatchedEmbeddingBagsCodegen
from figures import figure, interleaved
from serve_rate import bench_rates

from monolith_py.config import FeatureConfig, load_job
from monolith_py.data.columns import FeatureColumns, SparseColumn
from monolith_py.data.examples import ExampleBatch
from monolith_py.io import open_kv, open_log
from monolith_py.io.codec import encode_features
from monolith_py.io.log.topics import create_topics
from monolith_py.model.batch import Batch
from monolith_py.sync import Delta, RowEncoding, decode_delta, encode_delta, pack_rows
from monolith_py.training import CheckpointMeta, Trainer, save_checkpoint
from monolith_serving.client import RankClient
from monolith_serving.replica.table import ReplicaTable

DIM, NUM_FEATURES, NUM_FIDS = 16, 36, 20_000
NUM_USERS, NUM_ITEMS = 500, 5_000
USER_FEATURES = [f"user_{index}" for index in range(25)]
ITEM_FEATURES = [f"item_{index}" for index in range(8)]
CPU = torch.device("cpu")


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each load test")
    parser.add_argument(
        "--base", type=Path, help="checkout of an earlier commit, built in its .venv, to compare requests a CPU second with"
    )
    parser.add_argument("--only-rates", action="store_true", help="print requests a CPU second alone")
    arguments = parser.parse_args()
    seconds = arguments.seconds
    torch.set_num_threads(1)
    generator = np.random.default_rng(0)
    here = Path(__file__).parents[2]
    checkouts = {"ours": here} if arguments.base is None else {"ours": here, "base": arguments.base.resolve()}
    if arguments.only_rates:
        bench_rates(checkouts, generator, seconds, NUM_USERS, NUM_ITEMS)
        return
    bench_deltas(generator)
    bench_lookup(generator)
    with tempfile.TemporaryDirectory() as folder:
        bench_rank(Path(folder), generator, seconds)
    bench_rates(checkouts, generator, seconds, NUM_USERS, NUM_ITEMS)


def bench_deltas(generator: np.random.Generator) -> None:
    """Rows packed and encoded into deltas, and deltas decoded and applied."""
    num_rows = 8192
    fids = generator.integers(-(2**62), 2**62, num_rows)
    weights = generator.normal(0, 0.1, (num_rows, DIM)).astype(np.float32)

    def encode(encoding: RowEncoding) -> bytes:
        rows = pack_rows(weights, encoding)
        return encode_delta(Delta(1, 0, 1, 1, table="f", dim=DIM, encoding=encoding, fids=fids, rows=rows))

    for encoding in (RowEncoding.FP16, RowEncoding.INT8):
        value = encode(encoding)
        table = ReplicaTable([FeatureConfig(name="f", source="item", dim=DIM)], encoding, CPU)

        def apply(_: int, value: bytes = value, table: ReplicaTable = table) -> None:
            delta = decode_delta(value)
            table.assign(delta.table, delta.fids, delta.rows, delta.encoding)

        medians = interleaved({"encode": lambda _, encoding=encoding: encode(encoding), "apply": apply}, 50, warmup=1)
        assert table.num_rows == num_rows
        figure(f"sync.encode_rows_per_s.{encoding.value}", num_rows / medians["encode"], "rows/s")
        figure(f"serve.apply_rows_per_s.{encoding.value}", num_rows / medians["apply"], "rows/s")


def bench_lookup(generator: np.random.Generator) -> None:
    """Id maps and pooled int8 rows, against the same rows by number in FBGEMM alone: 26 features, batch 512, one fid in a bag."""
    num_features, num_rows, batch_size = 26, 40_000, 512
    features = [FeatureConfig(name=f"f{index}", source="item", dim=DIM) for index in range(num_features)]
    table = ReplicaTable(features, RowEncoding.INT8, CPU)
    plain = IntNBitTableBatchedEmbeddingBagsCodegen(
        [("rows", num_features * num_rows, DIM, SparseType.INT8, EmbeddingLocation.HOST)],
        feature_table_map=[0] * num_features,
        device="cpu",
        output_dtype=SparseType.FP32,
        bounds_check_mode=BoundsCheckMode.NONE,
    )
    plain.initialize_weights()
    (plain_rows, _), *_ = plain.split_embedding_weights(split_scale_shifts=False)
    fids = generator.integers(-(2**62), 2**62, (num_features, num_rows))
    for index, feature in enumerate(features):
        rows = pack_rows(generator.normal(0, 0.1, (num_rows, DIM)).astype(np.float32), RowEncoding.INT8)
        table.assign(feature.name, fids[index], rows, RowEncoding.INT8)
        plain_rows[index * num_rows : (index + 1) * num_rows] = torch.from_numpy(rows)
    picks = generator.integers(0, num_rows, (num_features, batch_size))
    names = tuple(feature.name for feature in features)
    chosen = np.take_along_axis(fids, picks, axis=1).ravel()
    batch = Batch(batch_size, names, chosen, np.ones(num_features * batch_size, np.int32), np.zeros((batch_size, 0), np.float32))
    numbers = torch.from_numpy((picks + np.arange(num_features)[:, None] * num_rows).ravel().astype(np.int32))
    offsets = torch.arange(num_features * batch_size + 1, dtype=torch.int32)
    with torch.inference_mode():
        assert torch.equal(table.lookup(batch), plain(numbers, offsets))
        medians = interleaved({"ours": lambda _: table.lookup(batch), "plain": lambda _: plain(numbers, offsets)}, 300)
    figure("serve.lookup_ids_per_s", len(chosen) / medians["ours"], "ids/s")
    figure("serve.lookup_vs_raw_tbe", medians["plain"] / medians["ours"], "ratio")


TOML = """
name = "bench"
[log]
url = "sqlite:///{folder}/log"
[kv]
url = "sqlite:///{folder}/kv.db"
{features}
[[tasks]]
name = "is_click"
action = "click"
[[tasks]]
name = "long_view"
action = "long_view"
[trainer]
checkpoint_dir = "{folder}/checkpoints"
[sync]
encoding = "int8"
[serving]
port = 0
port_file = "{folder}/port"
"""


def bench_rank(folder: Path, generator: np.random.Generator, seconds: float) -> None:
    """A replica process with learnt rows: one request at a time with 100 candidates."""
    named = [("user_id", "user_id"), ("item_id", "item_id"), ("tab", "context")]
    named += [(name, "user") for name in USER_FEATURES] + [(name, "item") for name in ITEM_FEATURES]
    assert len(named) == NUM_FEATURES
    tables = "\n".join(f'[[features]]\nname = "{name}"\nsource = "{source}"' for name, source in named)
    config = folder / "job.toml"
    config.write_text(TOML.format(folder=folder, features=tables))
    prepare(config, generator)
    child = subprocess.Popen([sys.executable, "-m", "monolith_py.cli", "serve", "--config", str(config)])
    try:
        while not (folder / "port").exists():
            assert child.poll() is None, "the replica did not start"
            time.sleep(0.05)
        with RankClient(f"127.0.0.1:{(folder / 'port').read_text()}") as client:
            bench_latency(client, generator, seconds)
        child.terminate()
        assert child.wait(30) == 0
    finally:
        child.kill()
        child.wait()


def prepare(config: Path, generator: np.random.Generator) -> None:
    """Write topics, stored features and a checkpoint with a row for every fid."""
    job = load_job(config)
    log = open_log(job.log.url)
    create_topics(log, job.log)
    log.close()
    kv = open_kv(job.kv.url)
    for kind, count, names in (("user", NUM_USERS, USER_FEATURES), ("item", NUM_ITEMS, ITEM_FEATURES)):
        fids = generator.integers(0, NUM_FIDS, (count, len(names)))
        one = np.ones(1, np.int32)
        rows = [{name: SparseColumn(row[place : place + 1], one) for place, name in enumerate(names)} for row in fids]
        kv.write({f"{kind}:{entity}": encode_features(FeatureColumns(1, columns)) for entity, columns in enumerate(rows)})
    kv.close()
    trainer = Trainer(job)
    for start in range(0, NUM_FIDS, 2000):
        column = SparseColumn(np.arange(start, start + 2000), np.ones(2000, np.int32))
        labels = {task: (generator.random(2000) < 0.3).astype(np.float32) for task in trainer.schema.tasks}
        names = tuple(map(str, range(2000)))
        times, kinds, rates = np.full(2000, 1000), np.zeros(2000, np.uint8), np.ones(2000, np.float32)
        features = FeatureColumns(2000, dict.fromkeys(trainer.schema.sparse_names, column))
        trainer.step(ExampleBatch(names, column.fids, times, kinds, rates, labels, features))
    meta = CheckpointMeta("bench", trainer.num_batches, trainer.num_examples, 1, 0, 0, {}, 0, 1)
    save_checkpoint(Path(job.trainer.checkpoint_dir), trainer, meta, keep=1)


def bench_latency(client: RankClient, generator: np.random.Generator, seconds: float) -> None:
    """One request at a time, 100 candidates each."""
    requests = [(int(generator.integers(NUM_USERS)), generator.integers(0, NUM_ITEMS, 100).tolist()) for _ in range(500)]
    durations_s: list[float] = []
    for user, items in requests:
        client.rank(user, items, context={"tab": [1]}, timeout_s=10.0)
    end_s = time.perf_counter() + seconds
    while time.perf_counter() < end_s:
        for user, items in requests[:50]:
            began_s = time.perf_counter()
            result = client.rank(user, items, context={"tab": [1]}, timeout_s=10.0)
            durations_s.append(time.perf_counter() - began_s)
            assert result.scores.shape == (100, 2)
    figure("serve.rank_p50_ms", float(np.percentile(durations_s, 50)) * 1000, "ms")
    figure("serve.rank_p99_ms", float(np.percentile(durations_s, 99)) * 1000, "ms")


if __name__ == "__main__":
    main()
