"""Wire formats: impressions, actions, stored features and dead letters as protobuf, examples as Arrow. Decoders raise `WireError`."""

from typing import TYPE_CHECKING

from monolith_py.io.codec.columns import columns_from_proto, columns_to_proto
from monolith_py.io.codec.events import (
    decode_action,
    decode_dead_letter,
    decode_features,
    decode_impression,
    decode_letter_record,
    encode_action,
    encode_dead_letter,
    encode_features,
    encode_impression,
    encode_reinjection,
    event_time_ms,
)
from monolith_py.io.codec.forgetting import decode_forget_request, encode_forget_request
from monolith_py.io.codec.steps import step_from_metadata, step_to_metadata
from monolith_py.lazy import lazy_exports

if TYPE_CHECKING:
    from monolith_py.io.codec.example_rows import ExampleStacker, RecordRows, read_examples_record
    from monolith_py.io.codec.examples import decode_examples, decode_examples_record, encode_examples, examples_metadata
else:
    __getattr__ = lazy_exports(
        __name__,
        {
            "ExampleStacker": "monolith_py.io.codec.example_rows",
            "RecordRows": "monolith_py.io.codec.example_rows",
            "decode_examples": "monolith_py.io.codec.examples",
            "decode_examples_record": "monolith_py.io.codec.examples",
            "encode_examples": "monolith_py.io.codec.examples",
            "examples_metadata": "monolith_py.io.codec.examples",
            "read_examples_record": "monolith_py.io.codec.example_rows",
        },
    )

__all__ = [
    "ExampleStacker",
    "RecordRows",
    "columns_from_proto",
    "columns_to_proto",
    "decode_action",
    "decode_dead_letter",
    "decode_examples",
    "decode_examples_record",
    "decode_features",
    "decode_forget_request",
    "decode_impression",
    "decode_letter_record",
    "encode_action",
    "encode_dead_letter",
    "encode_examples",
    "encode_features",
    "encode_forget_request",
    "encode_impression",
    "encode_reinjection",
    "event_time_ms",
    "examples_metadata",
    "read_examples_record",
    "step_from_metadata",
    "step_to_metadata",
]
