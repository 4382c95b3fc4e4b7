"""Examples of the joiner's core as records: the Arrow messages before the core's record batch, in the layout of examples.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import pyarrow as pa

from monolith_py import _core
from monolith_py.data.served import ServedModel
from monolith_py.io.codec.examples import examples_schema
from monolith_py.io.codec.served_columns import SCORE_PREFIX, TEXT_TYPE, TEXTS


def encode_joined(examples: _core.JoinedExamples, tasks: Sequence[str], metadata: Mapping[str, str] | None = None) -> bytes:
    """Return `examples` of a job with `tasks` as one record, for `decode_examples`; `metadata` is for `examples_metadata`."""
    sparse, dense, scored, models = examples.names()
    fields = _fields(tuple(tasks), tuple(sparse), tuple(dense), tuple(scored))
    dictionaries = _dictionaries(tuple(ServedModel(*model) for model in models)) if scored else b""
    return examples.record(_schema_message(fields, metadata or {}) + dictionaries)


_Fields = tuple[tuple[str, int | None], ...]  # column name, width of a dense column


@lru_cache(maxsize=64)
def _fields(tasks: tuple[str, ...], sparse: tuple[str, ...], dense: tuple[tuple[str, int], ...], scored: tuple[int, ...]) -> _Fields:
    """Return the columns of a record beside those of every record; `scored`: indices of the tasks with served scores."""
    served = [*TEXTS, *(f"{SCORE_PREFIX}{tasks[index]}" for index in scored)] if scored else []
    names = [*(f"label_{task}" for task in tasks), *(f"s_{name}" for name in sparse)]
    return (*((name, None) for name in names), *((f"d_{name}", width) for name, width in dense), *((name, None) for name in served))


class _Template(NamedTuple):
    """Message of a schema with blanks in place of the texts of its metadata."""

    message: bytes
    places: tuple[int, ...]  # of each text


def _schema_message(fields: _Fields, metadata: Mapping[str, str]) -> bytes:
    """Return the message of the schema: records of a job differ in the texts of their metadata alone, and serializing takes 45 us."""
    texts = {key: text.encode() for key, text in metadata.items()}
    template = _template(fields, tuple((key, len(text)) for key, text in texts.items()))
    message = bytearray(template.message)
    for place, text in zip(template.places, texts.values(), strict=True):
        message[place : place + len(text)] = text
    return bytes(message)


@lru_cache(maxsize=64)
def _template(fields: _Fields, sizes: tuple[tuple[str, int], ...]) -> _Template:
    """Return the template for metadata with these keys and numbers of bytes: a text does not move what lies around it."""

    def message(marked: str | None = None) -> bytes:
        metadata = {key: ("x" if key == marked else " ") * size for key, size in sizes}
        return bytes(examples_schema(fields, metadata).serialize().to_pybytes())

    blank = message()
    places = []
    for key, _ in sizes:
        differs = [index for index, (one, other) in enumerate(zip(blank, message(key), strict=True)) if one != other]
        places.append(differs[0] if differs else 0)
    return _Template(blank, tuple(places))


@lru_cache(maxsize=64)
def _dictionaries(models: tuple[ServedModel, ...]) -> bytes:
    """Return the messages of the dictionaries of both texts. Their numbers are those in an examples schema: no other column has one."""
    arrays = [
        pa.DictionaryArray.from_arrays(pa.array([0], pa.int32()), pa.array([model[place] for model in models], pa.string()))
        for place in range(len(TEXTS))
    ]
    schema = pa.schema([pa.field(name, TEXT_TYPE, nullable=False) for name in TEXTS])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))
    messages = [message for message in pa.ipc.MessageReader.open_stream(sink.getvalue()) if message.type == "dictionary"]
    return b"".join(message.serialize().to_pybytes() for message in messages)
