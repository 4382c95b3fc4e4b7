"""Examples on the wire: an Arrow stream of one record batch."""

from __future__ import annotations

import dataclasses
from contextlib import suppress
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monolith_py.data.columns import FeatureColumns, SparseColumn
from monolith_py.data.examples import ExampleBatch
from monolith_py.data.served import ServedModel, ServedScores
from monolith_py.errors import WireError
from monolith_py.io.codec import decode_examples, encode_examples, examples_metadata


def make_batch(num_rows: int = 4, seed: int = 0) -> ExampleBatch:
    generator = np.random.default_rng(seed)
    lengths = generator.integers(0, 4, num_rows).astype(np.int32)
    return ExampleBatch(
        request_ids=tuple(f"request-{row}" for row in range(num_rows)),
        item_ids=generator.integers(-(2**63), 2**63 - 1, num_rows),
        times_ms=generator.integers(1, 2**62, num_rows),
        kinds=generator.integers(0, 2, num_rows).astype(np.uint8),
        sample_rates=(1.0 - generator.random(num_rows, np.float32)).astype(np.float32),
        labels={task: generator.integers(0, 2, num_rows).astype(np.float32) for task in ("click", "long_view")},
        features=FeatureColumns(
            num_rows,
            {
                "user": SparseColumn(generator.integers(-(2**63), 2**63 - 1, num_rows), np.ones(num_rows, np.int32)),
                "tags": SparseColumn(generator.integers(-(2**63), 2**63 - 1, int(lengths.sum())), lengths),
            },
            {"age": generator.random((num_rows, 1), np.float32), "embedding": generator.random((num_rows, 3), np.float32)},
        ),
        served=make_served(num_rows, generator) if seed % 2 else None,
    )


def make_served(num_rows: int, generator: np.random.Generator) -> ServedScores:
    scores = generator.random(num_rows, np.float32)
    scores[generator.random(num_rows) < 0.2] = np.nan
    models = (ServedModel("live", "3.41"), ServedModel("live", "3.42"), ServedModel("trial", "3.41"))
    return ServedScores({"click": scores}, models, generator.integers(0, 3, num_rows).astype(np.int32))


def assert_equal(left: ExampleBatch, right: ExampleBatch) -> None:
    assert left.request_ids == right.request_ids
    for name in ("item_ids", "times_ms", "kinds", "sample_rates"):
        assert getattr(left, name).dtype == getattr(right, name).dtype
        assert np.array_equal(getattr(left, name), getattr(right, name))
    for one, other in ((left.labels, right.labels), (left.features.dense, right.features.dense)):
        assert list(one) == list(other)
        for name in one:
            assert one[name].dtype == np.float32 and np.array_equal(one[name], other[name])
    assert list(left.features.sparse) == list(right.features.sparse)
    for name, column in left.features.sparse.items():
        assert np.array_equal(column.fids, right.features.sparse[name].fids)
        assert np.array_equal(column.lengths, right.features.sparse[name].lengths)
    assert served_rows(left) == served_rows(right)


def served_rows(batch: ExampleBatch) -> list[tuple[ServedModel, dict[str, str]]]:
    served = batch.served
    if served is None:
        return []
    return [
        (served.models[code], {task: str(scores[row]) for task, scores in served.scores.items()})
        for row, code in enumerate(served.model_codes.tolist())
    ]


def replace_column(value: bytes, name: str, column: pa.Array | None) -> bytes:
    """Return the record with one column replaced, added or (None) left out, written by plain Arrow."""
    record = pa.ipc.open_stream(value).read_next_batch()
    columns = {field.name: one for field, one in zip(record.schema, record.columns, strict=True)} | {name: column}
    columns = {key: one for key, one in columns.items() if one is not None}
    return write(pa.RecordBatch.from_pydict(columns, metadata=record.schema.metadata))


def write(*records: pa.RecordBatch, schema: pa.Schema | None = None) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema or records[0].schema) as writer:
        for record in records:
            writer.write_batch(record)
    return sink.getvalue().to_pybytes()


@given(st.integers(0, 40), st.integers(0, 2**32), st.dictionaries(st.text("abc.", max_size=4), st.text(max_size=8), max_size=3))
def test_examples_are_decoded_unchanged(num_rows: int, seed: int, metadata: dict[str, str]) -> None:
    sent = make_batch(num_rows, seed)
    value = encode_examples(sent, metadata)
    assert_equal(decode_examples(value), sent)
    assert examples_metadata(value) == metadata


def test_slices_and_joined_batches_encode_like_their_rows() -> None:
    sent = make_batch(20)
    value = encode_examples(ExampleBatch.concat([sent.slice(3, 9), sent.slice(9, 20)]))
    assert_equal(decode_examples(value), sent.slice(3, 20))
    assert_equal(decode_examples(encode_examples(decode_examples(value).slice(2, 5))), sent.slice(5, 8))


def test_any_arrow_library_reads_the_columns() -> None:
    sent = make_batch()
    record = pa.ipc.open_stream(encode_examples(sent, {"joiner": "0"})).read_next_batch()
    assert record.schema.names == [
        *("request_id", "item_id", "time_ms", "kind", "sample_rate", "label_click", "label_long_view"),
        *("s_user", "s_tags", "d_age", "d_embedding"),
    ]
    assert record.schema.metadata == {b"monolith.examples": b"1", b"joiner": b"0"}
    ends = np.cumsum(sent.features.sparse["tags"].lengths)
    assert record["s_tags"].to_pylist() == [part.tolist() for part in np.split(sent.features.sparse["tags"].fids, ends[:-1])]
    assert record["d_embedding"].to_pylist() == sent.features.dense["embedding"].tolist()


def test_a_writer_that_slices_its_arrays_is_understood() -> None:
    sent = make_batch(6)
    record = pa.ipc.open_stream(encode_examples(sent)).read_next_batch()
    assert_equal(decode_examples(write(record.slice(2, 3))), sent.slice(2, 5))


def test_fids_are_views_of_the_record_and_labels_may_be_written() -> None:
    batch = decode_examples(encode_examples(make_batch()))
    assert not batch.features.sparse["user"].fids.flags.owndata
    for values in (batch.labels["click"], batch.sample_rates, batch.item_ids, batch.times_ms, batch.kinds):
        assert values.flags.writeable


def test_metadata_of_our_own_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must not begin with 'monolith\.'"):
        encode_examples(make_batch(), {"monolith.examples": "2"})


NAN = float("nan")
LENGTHS = np.array([1, 1], np.int32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": {"click": np.array([0, NAN], np.float32)}}, r"examples.label_click must be finite and >= 0, got nan at row 1"),
        ({"labels": {"click": np.array([-0.5, 0], np.float32)}}, r"examples.label_click must be finite and >= 0, got -0.5 at row 0"),
        ({"labels": {"click": np.zeros(3, np.float32)}}, r"examples.label_click must have 2 rows, got 3"),
        ({"labels": {}}, r"examples must have a label_<task> column, got none"),
        ({"sample_rates": np.array([1, 0], np.float32)}, r"examples.sample_rate must be in \(0, 1\], got 0.0 at row 1"),
        ({"sample_rates": np.array([1, NAN], np.float32)}, r"examples.sample_rate must be in \(0, 1\], got nan at row 1"),
        ({"sample_rates": np.array([1.5, 1], np.float32)}, r"examples.sample_rate must be in \(0, 1\], got 1.5 at row 0"),
        ({"kinds": np.array([0, 2], np.uint8)}, r"examples.kind must be one of \[0, 1\], got 2 at row 1"),
        ({"times_ms": np.array([5, 0])}, r"examples.time_ms must be > 0, got 0 at row 1"),
        ({"item_ids": np.array([1])}, r"examples.item_id must have 2 rows, got 1"),
        ({"request_ids": ("a", "")}, r"examples.request_id must not be empty, got ''"),
        ({"features": FeatureColumns(2, {"u": SparseColumn(np.arange(3), np.ones(3, np.int32))})}, r"examples.s_u must have 2 rows, got 3"),
        ({"features": FeatureColumns(2, {"u": SparseColumn(np.arange(3), LENGTHS)})}, r"examples.s_u.lengths must add up to 3 fids, got 2"),
        (
            {"features": FeatureColumns(2, {}, {"d": np.array([[1], [NAN]], np.float32)})},
            r"examples.d_d must be finite, got \[nan\] at row 1",
        ),
    ],
)
def test_broken_examples_are_not_even_encoded(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(WireError, match=message):
        encode_examples(dataclasses.replace(make_batch(2), **changes))


FLOATS = pa.list_(pa.float32(), 1)


@pytest.mark.parametrize(
    ("name", "column", "message"),
    [
        ("kind", None, r"examples must have a column kind, got"),
        ("item_id", pa.array([1, 2], pa.int32()), r"examples.item_id must be of type int64, got int32"),
        ("item_id", pa.array([1, None], pa.int64()), r"examples.item_id must have no null, got 1"),
        ("label_click", pa.array([0.0, NAN], pa.float32()), r"examples.label_click must be finite and >= 0, got nan at row 1"),
        ("label_click", pa.array([0.0, 1.0], pa.float64()), r"examples.label_click must be of type float, got double"),
        ("sample_rate", pa.array([0.0, 1.0], pa.float32()), r"examples.sample_rate must be in \(0, 1\], got 0.0 at row 0"),
        ("kind", pa.array([9, 0], pa.uint8()), r"examples.kind must be one of \[0, 1\], got 9 at row 0"),
        ("s_tags", pa.array([[1], None], pa.list_(pa.int64())), r"examples.s_tags must have no null, got 1"),
        ("s_tags", pa.array([[1], [None]], pa.list_(pa.int64())), r"examples.s_tags must have no null, got 1"),
        ("s_tags", pa.array([[1], [2]], pa.list_(pa.int32())), r"examples.s_tags must be of type list<.*int64>, got list<.*int32>"),
        ("d_age", pa.array([[1.0], None], FLOATS), r"examples.d_age must have no null"),
        ("d_age", pa.array([[1.0], [None]], FLOATS), r"examples.d_age must have no null"),
        ("d_age", pa.array([[1.0], [NAN]], FLOATS), r"examples.d_age must be finite, got \[nan\] at row 1"),
        ("d_age", pa.array([[], []], pa.list_(pa.float32(), 0)), r"examples.d_age must have at least 1 value a row, got 0"),
        ("d_age", pa.array([1.0, 2.0], pa.float32()), r"examples.d_age must be of type fixed_size_list<float32>, got float"),
        (
            "score_click",
            pa.array([0.5, 0.5], pa.float32()),
            r"examples must have columns arm and model_version beside served scores, got \[\]",
        ),
        ("arm", pa.array(["a", "b"]), r"examples must have columns arm and model_version beside served scores, got \['arm'\]"),
        ("x_age", pa.array([1.0, 2.0], pa.float32()), r"examples columns must begin with label_, score_, s_ or d_, got 'x_age'"),
    ],
)
def test_a_foreign_record_that_breaks_a_rule_is_refused(name: str, column: pa.Array | None, message: str) -> None:
    with pytest.raises(WireError, match=message):
        decode_examples(replace_column(encode_examples(make_batch(2)), name, column))


@pytest.mark.parametrize(
    ("name", "column", "message"),
    [
        ("score_click", pa.array([0.5, -1.5], pa.float32()), r"examples.score_click must be finite and >= 0, got -1.5 at row 1"),
        ("score_click", pa.array([0.5, 0.5], pa.float64()), r"examples.score_click must be of type float, got double"),
        ("arm", pa.array(["a", "b"]), r"examples.arm must be of type dictionary<.*>, got string"),
        ("arm", pa.array([None, "b"]).dictionary_encode(), r"examples.arm must have no null, got 1"),
        ("model_version", None, r"examples must have columns arm and model_version beside served scores, got \['arm'\]"),
    ],
)
def test_a_foreign_record_with_broken_served_scores_is_refused(name: str, column: pa.Array | None, message: str) -> None:
    with pytest.raises(WireError, match=message):
        decode_examples(replace_column(encode_examples(make_batch(2, seed=1)), name, column))


def test_texts_with_codes_of_their_own_are_combined() -> None:
    value = encode_examples(make_batch(3, seed=1))
    for name, texts in (("arm", ["a", "b", "a"]), ("model_version", ["1.1", "1.2", "1.2"])):
        value = replace_column(value, name, pa.array(texts).dictionary_encode())
    rows = served_rows(decode_examples(value))
    assert [model for model, _ in rows] == [ServedModel("a", "1.1"), ServedModel("b", "1.2"), ServedModel("a", "1.2")]


def test_a_record_of_another_version_is_refused() -> None:
    record = pa.ipc.open_stream(encode_examples(make_batch(2))).read_next_batch()
    for metadata in ({b"monolith.examples": b"2"}, {}):
        value = write(record.replace_schema_metadata(metadata))
        for decode in (decode_examples, examples_metadata):
            with pytest.raises(WireError, match=r"examples.metadata\['monolith.examples'\] must be b'1', got"):
                decode(value)


def test_a_stream_must_have_exactly_one_batch() -> None:
    record = pa.ipc.open_stream(encode_examples(make_batch(2))).read_next_batch()
    with pytest.raises(WireError, match="examples must be one record batch, got more"):
        decode_examples(write(record, record))
    with pytest.raises(WireError, match="examples must be one record batch, got none"):
        decode_examples(write(schema=record.schema))


def test_columns_must_have_different_names() -> None:
    record = pa.ipc.open_stream(encode_examples(make_batch(2))).read_next_batch()
    schema = pa.schema([*record.schema, pa.field("kind", pa.uint8())], metadata=record.schema.metadata)
    with pytest.raises(WireError, match=r"examples columns must be unique, got \['kind'\] twice"):
        decode_examples(write(pa.RecordBatch.from_arrays([*record.columns, record["kind"]], schema=schema)))


def refuse_or_decode(value: bytes) -> None:
    for decode in (decode_examples, examples_metadata):
        with suppress(WireError):
            decode(value)


@given(st.binary(max_size=200))
def test_random_bytes_raise_nothing_but_wire_errors(value: bytes) -> None:
    refuse_or_decode(value)


def test_damaged_examples_raise_nothing_but_wire_errors() -> None:
    value = encode_examples(make_batch(8), {"joiner": "0"})
    generator = np.random.default_rng(0)
    for _ in range(3_000):
        damaged = bytearray(value)
        for _ in range(int(generator.integers(1, 5))):
            place = int(generator.integers(0, len(damaged)))
            match int(generator.integers(0, 5)):
                case 0:
                    damaged[place : place + 4] = generator.bytes(4)
                case 1:
                    del damaged[place : place + int(generator.integers(1, 9))]
                case 2:
                    damaged[place:place] = generator.bytes(int(generator.integers(1, 9)))
                case _:
                    damaged[place] = int(generator.choice([0, 1, 127, 128, 255]))
        refuse_or_decode(bytes(damaged))
    for length in range(0, len(value), 7):
        refuse_or_decode(value[:length])
