"""Parameter sync over the log: the trainer publishes deltas, replicas read and apply them in order."""

from monolith_py.sync.delta import Delta, Parent, StepMark, decode_delta, encode_delta
from monolith_py.sync.dense.requests import DenseRequester, DenseRequests
from monolith_py.sync.dense.state import DenseState
from monolith_py.sync.dense.update import DenseForm, DenseUpdate, apply_update, full_update, next_update
from monolith_py.sync.digest import DenseDigest, ModelDigest, digest_rows, digest_tables
from monolith_py.sync.generation import Generation, next_generation
from monolith_py.sync.publisher import PublishedModel, Publisher, TouchedRows
from monolith_py.sync.rows import ByteArray, RowEncoding, pack_rows, row_bytes, unpack_rows
from monolith_py.sync.subscriber import Subscriber

__all__ = [
    "ByteArray",
    "Delta",
    "DenseDigest",
    "DenseForm",
    "DenseRequester",
    "DenseRequests",
    "DenseState",
    "DenseUpdate",
    "Generation",
    "ModelDigest",
    "Parent",
    "PublishedModel",
    "Publisher",
    "RowEncoding",
    "StepMark",
    "Subscriber",
    "TouchedRows",
    "apply_update",
    "decode_delta",
    "digest_rows",
    "digest_tables",
    "encode_delta",
    "full_update",
    "next_generation",
    "next_update",
    "pack_rows",
    "row_bytes",
    "unpack_rows",
]
