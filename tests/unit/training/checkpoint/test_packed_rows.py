"""Packed rows of a checkpoint: the rows of its tables at the same moment, and every damage is found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from monolith_py.config import JobConfig
from monolith_py.data.examples import ExampleBatch
from monolith_py.errors import CheckpointError
from monolith_py.sync import RowEncoding, digest_rows, pack_rows
from monolith_py.table import EmbeddingTable, PackedFile, Sgd, Slice, pack_snapshot
from monolith_py.training import Checkpoint, CheckpointMeta, CheckpointSaving, CheckpointStore, Part, Retention, Trainer

ENCODINGS = ["fp32", "fp16", "int8"]


def table_of(encoding: str, num_rows: int, lr: float = 0.1) -> EmbeddingTable:
    table = EmbeddingTable(dim=8, slices=(Slice("weights", 8, Sgd(lr=lr), encoding=encoding),), seed=1)  # type: ignore[arg-type]
    table.find_or_insert(np.arange(num_rows) * 977 - 5_000, now_s=0)
    return table


def read(path: Path) -> tuple[np.ndarray, np.ndarray, PackedFile]:
    file = PackedFile(path)
    chunks = list(file.chunks())
    fids = np.concatenate([np.empty(0, np.int64), *(fids for fids, _ in chunks)])
    rows = np.concatenate([np.empty((0, chunks[0][1].shape[1] if chunks else 0), np.uint8), *(rows for _, rows in chunks)])
    order = np.argsort(fids)
    return fids[order], rows[order], file


@pytest.mark.parametrize("num_rows", [0, 1, 333, 40_000])  # one shard, and many
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_packed_rows_are_those_that_a_drain_packs(tmp_path: Path, encoding: str, num_rows: int) -> None:
    table = table_of(encoding, num_rows)
    table.save(tmp_path / "table")
    assert pack_snapshot(tmp_path / "table", tmp_path / "rows") == num_rows
    fids, rows, file = read(tmp_path / "rows")
    expected_fids, weights = table.export_rows()
    np.testing.assert_array_equal(fids, expected_fids)
    assert (file.dim, file.encoding) == (8, encoding)
    if num_rows:
        np.testing.assert_array_equal(rows, pack_rows(weights, RowEncoding(encoding)))
        assert file.digest == digest_rows(fids, rows, RowEncoding(encoding))


@pytest.mark.parametrize("num_rows", [500, 40_000])
def test_changes_during_a_save_replace_what_was_copied_before(tmp_path: Path, num_rows: int) -> None:
    table = EmbeddingTable(dim=8, slices=(Slice("weights", 8, Sgd(lr=0.1), encoding="fp32"),), seed=1, ttl_s=10)
    fids = np.arange(num_rows)
    table.find_or_insert(fids, now_s=0)
    saving = table.start_saving(tmp_path / "table")
    step = 0
    while saving.copy(max_rows=10):
        step += 1
        if step > 5:
            break
        seen = np.arange(step * 40, step * 40 + 60)  # overlaps the step before
        rows = table.find_or_insert(seen, now_s=step)
        table.update(rows, np.ones((len(rows), 8), np.float32))
    table.evict(now_s=12)  # all but those of the last steps
    table.find_or_insert(np.arange(3), now_s=12)  # evicted, and there again
    saving.finish()
    saving.commit()
    pack_snapshot(tmp_path / "table", tmp_path / "rows")
    got_fids, got_rows, _ = read(tmp_path / "rows")
    expected_fids, weights = table.export_rows()
    assert 0 < len(expected_fids) < num_rows
    np.testing.assert_array_equal(got_fids, expected_fids)
    np.testing.assert_array_equal(got_rows, weights.view(np.uint8))


def test_every_byte_of_packed_rows_is_checked(tmp_path: Path) -> None:
    table_of("int8", 40).save(tmp_path / "table")
    pack_snapshot(tmp_path / "table", tmp_path / "rows")
    content = (tmp_path / "rows").read_bytes()
    for at in range(len(content)):
        (tmp_path / "rows").write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises(CheckpointError, match="rows: "):
            read(tmp_path / "rows")
    for size in range(0, len(content), 7):
        (tmp_path / "rows").write_bytes(content[:size])
        with pytest.raises(CheckpointError, match="torn"):
            read(tmp_path / "rows")


@pytest.mark.parametrize("encoding", ["fp32", "int8"])  # fp16 clips
def test_a_weight_that_is_not_finite_is_refused(tmp_path: Path, encoding: str) -> None:
    table = table_of(encoding, 20, lr=1e38)
    table.update(table.find_or_insert(np.arange(1), now_s=0), np.full((1, 8), 2.0**47, np.float32))
    table.save(tmp_path / "table")
    pack_snapshot(tmp_path / "table", tmp_path / "rows")
    with pytest.raises(CheckpointError, match="weights must be finite"):
        read(tmp_path / "rows")


def test_a_trainer_writes_packed_rows_of_the_moment_it_froze(
    make_job: Callable[..., JobConfig], make_examples: Callable[..., ExampleBatch], tmp_path: Path
) -> None:
    trainer = Trainer(make_job(sync={"encoding": "int8"}))
    trainer.step(make_examples(0))
    saving = CheckpointSaving(CheckpointStore(tmp_path), trainer, Retention(1))
    trainer.step(make_examples(1))
    saving.freeze(CheckpointMeta("training", 2, 0, 1, 0, 0, {}, 0, 0))
    expected = {name: table.export_rows() for name, table in trainer.bags.tables.items()}
    trainer.step(make_examples(2))
    checkpoint = saving.wait()
    assert checkpoint.has_packed(expected)
    for name, (fids, weights) in expected.items():
        got_fids, got_rows, _ = read(checkpoint.packed(name))
        np.testing.assert_array_equal(got_fids, fids)
        np.testing.assert_array_equal(got_rows, pack_rows(weights, RowEncoding.INT8))


def test_a_trainer_needs_no_packed_rows_and_a_replica_no_tables(
    make_job: Callable[..., JobConfig], make_examples: Callable[..., ExampleBatch], tmp_path: Path
) -> None:
    trainer = Trainer(make_job())
    trainer.step(make_examples(0))
    saving = CheckpointSaving(CheckpointStore(tmp_path), trainer, Retention(1))
    saving.freeze(CheckpointMeta("training", 1, 0, 1, 0, 0, {}, 0, 0))
    checkpoint = saving.wait()
    for part in Part:
        checkpoint.verify(part)
    packed = checkpoint.packed("user_id")
    content = packed.read_bytes()
    packed.write_bytes(content[:-1])
    for part in (Part.ALL, Part.SERVING):
        with pytest.raises(CheckpointError, match=r"user_id\.rows"):
            checkpoint.verify(part)
    assert Checkpoint.newest(tmp_path) == checkpoint
    packed.write_bytes(content)
    checkpoint.table("user_id").write_bytes(b"")
    checkpoint.verify(Part.SERVING)
    with pytest.raises(CheckpointError, match=r"user_id\.table"):
        checkpoint.verify(Part.TRAINING)
