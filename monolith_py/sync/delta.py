"""Deltas, each a change of one table or of the dense parameters, to and from protobuf (protos/monolith/v1/parameter_sync.proto).

Letters: n updated rows, m evicted fids, R = bytes of one packed row.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from google.protobuf.message import DecodeError

from monolith_py.data.columns import Int64Array
from monolith_py.errors import WireError
from monolith_py.pb import parameter_sync_pb2 as pb
from monolith_py.sync.delta_checksum import delta_checksum
from monolith_py.sync.dense.update import DenseUpdate, dense_update_from_wire, dense_update_to_wire
from monolith_py.sync.digest import DenseDigest, ModelDigest
from monolith_py.sync.rows import ENCODING_TO_WIRE, ByteArray, RowEncoding, encoding_from_wire, row_bytes, rows_are_finite

_FID = np.dtype("<i8")
_MAX_DIM = 1024


@dataclass(frozen=True)
class StepMark:
    """A training step and its updated rows, all servable once this delta is applied."""

    time_ms: int  # wall clock
    num_rows: int
    event_ms: int = 0  # event time of the newest event that the joiner had read; 0 if it is not known


@dataclass(frozen=True)
class Parent:
    """State from which a generation starts: all deltas before (`generation`, `seq`), which end before `offset` of the updates."""

    generation: int
    seq: int
    offset: int


def _no_fids() -> Int64Array:
    return np.empty(0, np.int64)


@dataclass(frozen=True)
class Delta:
    """A change of one table, or of the dense parameters if `table` is empty. A delta with neither shows only that the trainer runs.

    Apply `evicted` before the rows. `seq` numbers the deltas of a generation without a gap, over all tables. `parent` is in the first one
    only, unless the model is a new one; `digest` is in the last one of a publication.
    """

    generation: int
    seq: int
    watermark_ms: int  # event time
    published_ms: int  # wall clock
    table: str = ""
    dim: int = 0
    encoding: RowEncoding = RowEncoding.FP32
    fids: Int64Array = field(default_factory=_no_fids)  # (n,)
    rows: ByteArray = field(default_factory=lambda: np.empty((0, 0), np.uint8))  # (n, R)
    evicted: Int64Array = field(default_factory=_no_fids)  # (m,)
    dense: DenseUpdate | None = None
    steps: tuple[StepMark, ...] = ()
    trainer: str = ""  # name of its process
    parent: Parent | None = None
    digest: ModelDigest | None = None


def encode_delta(delta: Delta) -> bytes:
    """Return `delta` as bytes."""
    assert len(delta.fids) == len(delta.rows), (len(delta.fids), len(delta.rows))
    message = pb.Delta(
        table=delta.table,
        generation=delta.generation,
        seq=delta.seq,
        watermark_ms=delta.watermark_ms,
        published_ms=delta.published_ms,
        dim=delta.dim,
        encoding=ENCODING_TO_WIRE[delta.encoding] if delta.table else pb.ROW_ENCODING_UNSPECIFIED,
        fids=delta.fids.astype(_FID, copy=False).tobytes(),
        rows=delta.rows.tobytes(),
        evicted=delta.evicted.astype(_FID, copy=False).tobytes(),
        dense=None if delta.dense is None else dense_update_to_wire(delta.dense),
        steps=[pb.StepMark(**vars(step)) for step in delta.steps],
        trainer=delta.trainer,
        parent=None if delta.parent is None else pb.Parent(**vars(delta.parent)),
        digest=None if delta.digest is None else _digest_to_wire(delta.digest),
    )
    message.checksum = delta_checksum(message)
    value: bytes = message.SerializeToString(deterministic=True)  # one order of the digest's encodings
    return value


def decode_delta(value: bytes) -> Delta:
    """Return the delta in `value`. Its arrays are read-only views.

    Raises:
        WireError: the bytes are no delta, an encoding is unknown, a dim is out of range, sizes do not match, a checksum is wrong, or a
            weight is not finite.
    """
    message = pb.Delta()
    try:
        message.ParseFromString(value)
    except DecodeError as error:
        raise WireError(f"delta must be a monolith.v1.Delta message, got {len(value)} bytes: {error}") from None
    checksum = delta_checksum(message)
    if message.checksum != checksum:
        raise WireError(f"delta.checksum must be {checksum:08x}, got {message.checksum:08x}")
    if message.published_ms <= 0:
        raise WireError(f"delta.published_ms must be > 0, got {message.published_ms}")
    head = Delta(
        message.generation,
        message.seq,
        message.watermark_ms,
        message.published_ms,
        steps=tuple(StepMark(step.time_ms, step.num_rows, step.event_ms) for step in message.steps),
        trainer=message.trainer,
        parent=_parent_of(message.parent) if message.HasField("parent") else None,
        digest=_digest_of(message.digest) if message.HasField("digest") else None,
    )
    if message.table:
        return _with_rows(head, message)
    for name in ("fids", "rows", "evicted"):
        if getattr(message, name):
            raise WireError(f"delta.{name} must be empty without delta.table, got {len(getattr(message, name))} bytes")
    return replace(head, dense=dense_update_from_wire(message.dense)) if message.HasField("dense") else head


def _with_rows(head: Delta, message: pb.Delta) -> Delta:
    """Return `head` with the rows and evictions of `message`, checked."""
    if message.HasField("dense"):
        raise WireError(f"delta.dense must be absent in a delta of table {message.table!r}, got {message.dense.ByteSize()} bytes")
    encoding = encoding_from_wire(f"delta.encoding of table {message.table!r}", message.encoding)
    if not 1 <= message.dim <= _MAX_DIM:
        raise WireError(f"delta.dim must be in [1, {_MAX_DIM}], got {message.dim}")
    width = row_bytes(message.dim, encoding)
    fids = _fids("fids", message.fids)
    if len(message.rows) != len(fids) * width:
        shape = f"{len(fids)} rows of {width} bytes ({encoding.value}, dim {message.dim})"
        raise WireError(f"delta.rows must have {shape}, got {len(message.rows)} bytes")
    rows = np.frombuffer(message.rows, np.uint8).reshape(len(fids), width)  # (n, R)
    if not rows_are_finite(rows, encoding):
        raise WireError(f"delta.rows must be finite, got NaN or Inf in a delta of table {message.table!r}")
    evicted = _fids("evicted", message.evicted)
    return replace(head, table=message.table, dim=message.dim, encoding=encoding, fids=fids, rows=rows, evicted=evicted)


def _parent_of(message: pb.Parent) -> Parent:
    return Parent(message.generation, message.seq, message.offset)


def _digest_to_wire(digest: ModelDigest) -> pb.Digest:
    message = pb.Digest(rows=digest.rows, encoding=ENCODING_TO_WIRE[digest.encoding])
    if digest.dense is not None:
        message.fingerprint, message.dense = digest.dense.fingerprint, digest.dense.weights
        message.dense_encoding = ENCODING_TO_WIRE[digest.dense.encoding]
    for name, encoding in digest.encodings.items():
        message.encodings[name] = ENCODING_TO_WIRE[encoding]
    return message


def _digest_of(message: pb.Digest) -> ModelDigest:
    """Return the digest of `message`."""
    dense = None
    if message.HasField("fingerprint"):
        dense_encoding = encoding_from_wire("delta.digest.dense_encoding", message.dense_encoding)
        dense = DenseDigest(message.fingerprint, message.dense, dense_encoding)
    encodings = {name: encoding_from_wire(f"delta.digest.encodings of table {name!r}", one) for name, one in message.encodings.items()}
    return ModelDigest(message.rows, encoding_from_wire("delta.digest.encoding", message.encoding), dense, encodings)


def _fids(name: str, value: bytes) -> Int64Array:
    if len(value) % _FID.itemsize:
        raise WireError(f"delta.{name} must be a multiple of {_FID.itemsize} bytes, got {len(value)}")
    return np.frombuffer(value, _FID).astype(np.int64, copy=False)
