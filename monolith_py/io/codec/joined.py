"""Examples of the joiner's core as records: the Arrow messages before the core's record batch, in the layout of examples.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import pyarrow as pa

from monolith_py import _core
from monolith_py.data.served import ServedModel
from monolith_py.io.codec.examples import examples_schema
from monolith_py.io.codec.served_columns import SCORE_PREFIX, TEXT_TYPE, TEXTS


def encode_joined(examples: _core.JoinedExamples, tasks: Sequence[str], metadata: Mapping[str, str] | None = None) -> bytes:
    """Return `examples` of a job with `tasks` as one record, for `decode_examples`; `metadata` is for `examples_metadata`."""
    sparse, dense, scored, models = examples.names()
    fields: list[tuple[str, int | None]] = [(f"label_{task}", None) for task in tasks]
    fields += [(f"s_{name}", None) for name in sparse]
    fields += [(f"d_{name}", width) for name, width in dense]
    dictionaries = b""
    if scored:
        fields += [(name, None) for name in TEXTS]
        fields += [(f"{SCORE_PREFIX}{tasks[index]}", None) for index in scored]
        dictionaries = _dictionaries(tuple(ServedModel(*model) for model in models))
    schema = examples_schema(fields, metadata).serialize().to_pybytes()
    return examples.record(schema + dictionaries)


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
