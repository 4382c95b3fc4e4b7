"""Rows stacked by the core are those of the codec, whatever the records; it reads no record that the codec refuses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monolith_py import _core
from monolith_py.config import DenseFeatureConfig, FeatureConfig
from monolith_py.data.columns import FeatureColumns, InputForm, SparseColumn
from monolith_py.data.examples import ExampleBatch
from monolith_py.data.schema import Schema
from monolith_py.data.served import ServedModel, ServedScores
from monolith_py.errors import WireError
from monolith_py.io.codec import ExampleStacker, RecordRows, decode_examples, encode_examples, read_examples_record
from monolith_py.model.batch import make_batch

SPARSE, DENSE = ("user", "tags", "item", "extra"), (("age", 1), ("embedding", 3), ("more", 2))
FORM = InputForm(SPARSE[:3], DENSE[:2])


def make_record(generator: np.random.Generator, num_rows: int) -> ExampleBatch:
    """Return examples with some of the features, in any order, often one fid in each bag, and with scores or without."""

    def picked(names: Sequence[Any]) -> list[Any]:
        return [names[index] for index in generator.permutation(len(names))[: generator.integers(0, len(names) + 1)]]

    sparse = {}
    for name in picked(SPARSE):
        lengths = generator.integers(0, 4, num_rows) if generator.random() < 0.5 else np.ones(num_rows)
        sparse[name] = SparseColumn(generator.integers(-(2**63), 2**63 - 1, int(lengths.sum())), lengths.astype(np.int32))
    dense = {name: generator.random((num_rows, width), np.float32) for name, width in picked(DENSE)}
    models = tuple(ServedModel(arm, version) for arm, version in picked([("a", "1.1"), ("a", "1.1"), ("b", "1.2"), ("", ""), ("ü", "2.1")]))
    scores = generator.random(num_rows, np.float32)
    scores[generator.random(num_rows) < 0.2] = np.nan
    served = (
        ServedScores(
            dict.fromkeys(picked(("click", "like", "share")), scores), models, generator.integers(0, len(models), num_rows, np.int32)
        )
        if models
        else None
    )
    return ExampleBatch(
        request_ids=tuple(generator.choice(["a", "request-1", "ürün", "注文", "r" * 40], num_rows).tolist()),
        item_ids=generator.integers(-(2**63), 2**63 - 1, num_rows),
        times_ms=generator.integers(1, 2**62, num_rows),
        kinds=generator.integers(0, 2, num_rows).astype(np.uint8),
        sample_rates=(1.0 - generator.random(num_rows, np.float32)).astype(np.float32),
        labels={task: generator.integers(0, 2, num_rows).astype(np.float32) for task in generator.permutation(["click", "like"]).tolist()},
        features=FeatureColumns(num_rows, sparse, dense),
        served=served,
    )


def assert_same(one: Any, other: Any) -> None:
    """Check that two arrays have the same type and the same bits."""
    assert one.dtype == other.dtype and one.shape == other.shape
    assert np.ascontiguousarray(one).tobytes() == np.ascontiguousarray(other).tobytes()


def assert_equal(batch: ExampleBatch, expected: ExampleBatch) -> None:
    assert len(batch) == len(expected) and batch.request_ids == expected.request_ids
    for name in ("item_ids", "times_ms", "kinds", "sample_rates"):
        assert_same(getattr(batch, name), getattr(expected, name))
    for ours, theirs in ((batch.labels, expected.labels), (batch.features.dense, expected.features.dense)):
        assert list(ours) == list(theirs)
        for name in ours:
            assert_same(ours[name], theirs[name])
    assert batch.features.num_rows == expected.features.num_rows
    assert list(batch.features.sparse) == list(expected.features.sparse)
    for name, column in batch.features.sparse.items():
        assert_same(column.fids, expected.features.sparse[name].fids)
        assert_same(column.lengths, expected.features.sparse[name].lengths)
    assert_served(batch.served, expected.served)


def assert_served(served: ServedScores | None, expected: ServedScores | None) -> None:
    if served is None or expected is None:
        assert served is None and expected is None
        return
    assert served.models == expected.models and list(served.scores) == list(expected.scores)
    assert_same(served.model_codes, expected.model_codes)
    for task in served.scores:
        assert_same(served.scores[task], expected.scores[task])


def read(value: bytes) -> _core.ExampleRecord:
    record = _core.ExampleRecord.read(value)
    assert record is not None
    return record


@given(st.integers(0, 2**32), st.lists(st.integers(1, 12), min_size=1, max_size=4))
def test_stacked_rows_are_those_of_the_decoded_records(seed: int, sizes: list[int]) -> None:
    generator = np.random.default_rng(seed)
    values = [encode_examples(make_record(generator, size), {"step": "[1]"}) for size in sizes]
    parts: list[RecordRows] = []
    expected: list[ExampleBatch] = []
    for value, size in zip(values, sizes, strict=True):
        start = int(generator.integers(0, size))
        stop = int(generator.integers(start, size)) + 1
        record, metadata = read_examples_record(value)
        assert metadata == {"step": "[1]"} and len(record) == size
        parts.append((record, start, stop))
        expected.append(decode_examples(value).slice(start, stop))
    batch, whole = ExampleStacker(FORM).stack(parts), ExampleBatch.concat(expected)
    assert_equal(batch, whole)
    row = int(generator.integers(0, len(whole)))
    assert encode_examples(batch.slice(row, row + 1)) == encode_examples(whole.slice(row, row + 1))


def make_schema() -> Schema:
    features = tuple(FeatureConfig(name=name, source="user") for name in FORM.sparse)
    return Schema(features, tuple(DenseFeatureConfig(name=name, source="user", dim=dim) for name, dim in FORM.dense), ("click",))


@given(st.integers(0, 2**32))
def test_the_model_input_is_that_of_the_columns(seed: int) -> None:
    generator, schema = np.random.default_rng(seed), make_schema()
    parts = [(read(encode_examples(make_record(generator, 5))), 1, 4) for _ in range(3)]
    features = ExampleStacker(schema.input_form).stack(parts).features
    made = make_batch(features, schema)
    expected = make_batch(FeatureColumns(len(parts) * 3, dict(features.sparse), dict(features.dense)), schema)
    assert made.names == expected.names and made.num_rows == expected.num_rows
    for name in ("fids", "lengths", "dense"):
        assert_same(getattr(made, name), getattr(expected, name))


def test_model_input_of_another_job_is_made_anew() -> None:
    generator, schema = np.random.default_rng(0), make_schema()
    features = ExampleStacker(InputForm(("item", "user"), ())).stack([(read(encode_examples(make_record(generator, 5))), 0, 5)]).features
    expected = make_batch(FeatureColumns(5, dict(features.sparse), dict(features.dense)), schema)
    assert_same(make_batch(features, schema).fids, expected.fids)


def damaged(value: bytes, generator: np.random.Generator) -> bytes:
    """Return `value` with some bytes changed, removed or added."""
    changed = bytearray(value)
    for _ in range(int(generator.integers(1, 4))):
        place = int(generator.integers(0, len(changed)))
        match int(generator.integers(0, 6)):
            case 0:
                changed[place : place + 4] = generator.bytes(4)
            case 1:
                del changed[place : place + int(generator.integers(1, 9))]
            case 2:
                changed[place:place] = generator.bytes(int(generator.integers(1, 9)))
            case 3:
                changed[place] ^= 1 << int(generator.integers(0, 8))
            case _:
                changed[place] = int(generator.choice([0, 1, 2, 127, 128, 255]))
    return bytes(changed)


def test_the_core_reads_a_damaged_record_only_as_the_codec_does() -> None:
    generator = np.random.default_rng(0)
    values = [encode_examples(make_record(generator, 5), {"step": "[1]"}) for _ in range(12)]
    num_read = 0
    for number in range(3_000):
        value = damaged(values[number % len(values)], generator)
        record = _core.ExampleRecord.read(value)
        if record is not None:
            num_read += 1
            assert_equal(ExampleStacker(FORM).stack([(record, 0, len(record))]), ExampleBatch.concat([decode_examples(value)]))
    assert num_read > 100
    for length in range(len(values[0])):
        assert _core.ExampleRecord.read(values[0][:length]) is None


def test_a_record_that_the_core_does_not_read_is_rewritten_by_the_codec() -> None:
    sent = make_record(np.random.default_rng(1), 6)
    batch = pa.ipc.open_stream(encode_examples(sent, {"step": "[1]"})).read_next_batch()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
        writer.write_batch(batch)
    value = sink.getvalue().to_pybytes()
    assert _core.ExampleRecord.read(value) is None
    record, metadata = read_examples_record(value)
    assert metadata == {"step": "[1]"}
    assert_equal(ExampleStacker(FORM).stack([(record, 0, 6)]), ExampleBatch.concat([sent]))
    with pytest.raises(WireError, match=r"examples must be an Arrow IPC stream: .*, got 3 bytes"):
        read_examples_record(b"abc")


def test_a_record_without_examples_is_read() -> None:
    record = read(encode_examples(make_record(np.random.default_rng(2), 0)))
    assert len(record) == 0 and sorted(record.tasks) == ["click", "like"]


def test_rows_beyond_a_record_are_refused() -> None:
    record = read(encode_examples(make_record(np.random.default_rng(3), 4)))
    for start, stop in ((0, 5), (3, 2)):
        with pytest.raises(ValueError, match=r"stop must be in \[start, 4\], got"):
            _core.ExampleRows([(record, start, stop)])
    with pytest.raises(ValueError, match="parts must be at least one, got none"):
        _core.ExampleRows([])
