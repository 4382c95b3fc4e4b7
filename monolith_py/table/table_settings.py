"""Settings of a saved table, read from the header of its snapshot (`visit_meta` in core/snapshot/meta.hpp) without its rows."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

import numpy as np

from monolith_py.errors import CheckpointError
from monolith_py.table import optimizers as rules
from monolith_py.table.admission import Admission, MemoryBudget
from monolith_py.table.slices import Encoding, Initializer

_VERSION = 2
_CHUNK_HEAD = "<4sIIIQQQ"  # magic, tag, shard_id, crc, entries, rows, bytes
_HEADER_TAG = 1

# The enums of the core, in its order. Each rule with the parts of its state: name, and whether it is as wide as the slice or one float.
_STATES: dict[type[rules.Optimizer], tuple[tuple[str, bool], ...]] = {
    rules.Sgd: (),
    rules.Momentum: (("v", True),),
    rules.Adagrad: (("n", True),),
    rules.RowwiseAdagrad: (("n", False),),
    rules.Adadelta: (("mean_square_gradient", True), ("mean_square_step", True)),
    rules.RmsProp: (("n", True),),
    rules.Adam: (("m", True), ("v", True), ("step", False)),
    rules.AmsGrad: (("m", True), ("v", True), ("greatest_v", True), ("step", False)),
    rules.AdamW: (("m", True), ("v", True), ("step", False)),
    rules.Ftrl: (("z", True), ("n", True)),
    rules.GroupAdagrad: (("n", False),),
    rules.GroupFtrl: (("z", True), ("n", True)),
}
_ADMISSIONS: tuple[Literal["count", "sketch", "proportional", "geometric"], ...] = ("count", "sketch", "proportional", "geometric")
_EVICTIONS: tuple[Literal["lru", "lfu", "score"] | None, ...] = (None, "lru", "lfu", "score")
# Hyperparameters of all rules, in the order of the core's `Hyperparameters`.
_HYPERPARAMETERS = (
    *("lr", "eps", "initial_accumulator", "beta1", "beta2", "l1", "l2", "beta"),
    *("momentum", "nesterov", "rho", "weight_decay", "clip_norm"),
)


@dataclass(frozen=True)
class SliceSettings:
    """Settings of one `Slice`; `hyperparameters` are those of its rule, with the learning rate at the time of the snapshot."""

    name: str
    dim: int
    optimizer: str
    hyperparameters: dict[str, float]
    initializer: str
    init_scale: float
    encoding: str

    def state_parts(self) -> dict[str, int]:
        """Return the number of floats of each part of the rule's state in a row, in order."""
        (parts,) = (parts for rule, parts in _STATES.items() if rule.kind == self.optimizer)
        return {name: self.dim if is_wide else 1 for name, is_wide in parts}


@dataclass(frozen=True)
class TableSettings:
    """Settings of an `EmbeddingTable`."""

    slices: tuple[SliceSettings, ...]
    seed: int
    admit_after: int
    admission: Admission
    ttl_s: int | None
    budget: MemoryBudget | None

    @property
    def dim(self) -> int:
        """Return the width of a row."""
        return sum(part.dim for part in self.slices)

    @property
    def seen_step_s(self) -> int:
        """Return the resolution of the times of sightings, to which they are rounded down: seconds of event time."""
        return -(-self.ttl_s // 1000) if self.ttl_s is not None else 10

    @property
    def seen_span_s(self) -> int:
        """Return the span of distinct times of sightings in seconds: an older one may only be known to be older."""
        return self.seen_step_s << 15


def read_settings(path: str | Path) -> TableSettings:
    """Return the settings of the table saved at `path`; only the header is read and checked.

    Raises:
        CheckpointError: the file cannot be read or has no snapshot header of this version.
    """
    with _unreadable(path):
        return _settings(_header(path))


@contextmanager
def _unreadable(path: str | Path) -> Iterator[None]:
    """Raise CheckpointError for a header that cannot be read."""
    try:
        yield
    except (OSError, struct.error, UnicodeDecodeError, ValueError, IndexError) as error:
        raise CheckpointError(f"{path}: the header cannot be read: {error}") from None


def _header(path: str | Path) -> _Fields:
    with _unreadable(path), Path(path).open("rb") as stream:
        magic, tag, *_, size = struct.unpack(_CHUNK_HEAD, stream.read(struct.calcsize(_CHUNK_HEAD)))
        if (magic, tag) != (b"MNLT", _HEADER_TAG):
            raise CheckpointError(f"{path}: is not a table snapshot")
        return _Fields(stream, min(size, os.fstat(stream.fileno()).st_size))


def read_snapshot_id(path: str | Path) -> int:
    """Return the number of the snapshot at `path`; only the header is read.

    Raises:
        CheckpointError: the file cannot be read or has no snapshot header of this version.
    """
    with _unreadable(path):
        header = _header(path)
        _check_version(header)
        (number,) = header.take("Q")
        return int(number)


class _Fields:
    """Reader of the fields of a header, in order."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._bytes, self._at = stream.read(size), 0

    def take(self, form: str) -> tuple[Any, ...]:
        """Return the next fields, of the struct format `form`."""
        values = struct.unpack_from(f"<{form}", self._bytes, self._at)
        self._at += struct.calcsize(f"<{form}")
        return values

    def text(self) -> str:
        """Return the next field, a string."""
        (size,) = self.take("Q")
        if size > len(self._bytes):
            raise ValueError(f"a name must have at most {len(self._bytes)} bytes, got {size}")
        (value,) = self.take(f"{size}s")
        return str(value.decode())


def _check_version(header: _Fields) -> None:
    (version,) = header.take("I")
    if version != _VERSION:
        raise ValueError(f"version must be {_VERSION}, got {version}")


def _settings(header: _Fields) -> TableSettings:
    _check_version(header)
    _id, _parent, seed, admission, admit_after, sketch_bytes, window_s = header.take("QQQIIQq")
    ttl_s, eviction, budget_bytes, half_life_s, num_slices = header.take("qIQqQ")
    kind, order = _ADMISSIONS[admission], _EVICTIONS[eviction]
    return TableSettings(
        slices=tuple(_slice(header) for _ in range(num_slices)),
        seed=seed,
        admit_after=admit_after,
        admission=Admission(kind, sketch_bytes, window_s) if kind == "sketch" else Admission(kind),
        ttl_s=ttl_s or None,
        budget=MemoryBudget(budget_bytes, order, half_life_s) if order else None,
    )


def _slice(header: _Fields) -> SliceSettings:
    name = header.text()
    dim, optimizer, *numbers, initializer, init_scale, encoding = header.take(f"II{len(_HYPERPARAMETERS)}fIfI")
    rule = list(_STATES)[optimizer]
    known = {field.name for field in fields(rule)}
    return SliceSettings(
        name,
        dim,
        rule.kind,
        {key: _shortest(number) for key, number in zip(_HYPERPARAMETERS, numbers, strict=True) if key in known},
        get_args(Initializer)[initializer],
        _shortest(init_scale),
        get_args(Encoding)[encoding],
    )


def _shortest(number: float) -> float:
    """Return a float32 as its shortest decimal: 0.05, not 0.05000000074505806."""
    return float(str(np.float32(number)))
