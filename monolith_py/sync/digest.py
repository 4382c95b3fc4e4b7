"""Digest of a model: equal for a trainer and its replicas at one delta, in whatever order their rows lie.

protos/monolith/v1/parameter_sync.proto defines it; the core computes that of rows (`core/table/row_digest.hpp`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from crc32c import crc32c

from monolith_py import _core
from monolith_py.data.columns import Int64Array
from monolith_py.sync.dense.state import DenseState
from monolith_py.sync.rows import ByteArray, RowEncoding

_BITS = (1 << 64) - 1


@dataclass(frozen=True)
class DenseDigest:
    """Digest of the dense parameters."""

    fingerprint: int
    weights: int
    encoding: RowEncoding

    @staticmethod
    def of(state: DenseState, encoding: RowEncoding) -> DenseDigest:
        """Return the digest of `state`, its weights in `encoding`.

        Raises:
            ModelNotFinite: a weight is NaN or infinite.
        """
        return DenseDigest(state.fingerprint, crc32c(state.pack(encoding), state.fingerprint), encoding)


@dataclass(frozen=True)
class ModelDigest:
    """Digest of a model; `str` gives it for people.

    >>> print(ModelDigest(0xABC, RowEncoding.INT8))
    0000000000000abc
    """

    rows: int
    encoding: RowEncoding
    dense: DenseDigest | None = None  # None: the dense parameters were not due
    encodings: Mapping[str, RowEncoding] = field(default_factory=dict)  # of the tables with another one than `encoding`

    def encoding_of(self, table: str) -> RowEncoding:
        """Return the encoding of the rows of a table."""
        return self.encodings.get(table, self.encoding)

    def __str__(self) -> str:
        return f"{self.rows:016x}" + (f"-{self.dense.weights:08x}" if self.dense else "")


def digest_rows(fids: Int64Array, rows: ByteArray, encoding: RowEncoding) -> int:
    """Return the digest of packed rows uint8 (n, R) of different `fids` int64 (n,); that of a table is the sum over its rows."""
    return _core.digest_rows(fids, rows, encoding.value)


def digest_tables(digests: Mapping[str, int]) -> int:
    """Return the digest of all tables from that of each, by name.

    >>> digest_tables({"a": 0})
    0
    """
    return sum(_mix((digest + crc32c(name.encode())) & _BITS) for name, digest in digests.items() if digest) & _BITS


def _mix(value: int) -> int:
    """Return the finaliser of MurmurHash3 (Appleby) of 64 bits."""
    value = ((value ^ (value >> 33)) * 0xFF51AFD7ED558CCD) & _BITS
    value = ((value ^ (value >> 33)) * 0xC4CEB9FE1A85EC53) & _BITS
    return value ^ (value >> 33)
