"""Dense state of a replica: arrays by name, live atoms of the sparse layers, fingerprint.

Letters: k live atoms of a layer, h outputs of an atom, n weights of all tensors. A sparse layer of prefix P has the tensors P.values
float32 (k, h), P.bounds int32 (blocks + 1,), P.columns int32 (k,) and P.topology_version int64 (), its number of swaps. All other tensors
are float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
from crc32c import crc32c

from monolith_py.errors import ModelNotFinite
from monolith_py.sync.dense.topology import LiveAtoms
from monolith_py.sync.rows import RowEncoding, pack_rows, row_bytes, unpack_rows

_BOUNDS, _COLUMNS, _VERSION, _VALUES = "bounds", "columns", "topology_version", "values"
_FLOAT32 = np.dtype(np.float32)
_TOPOLOGY = {_BOUNDS: np.dtype(np.int32), _COLUMNS: np.dtype(np.int32), _VERSION: np.dtype(np.int64)}
_WIRE_DTYPES = {np.dtype(np.int32): "<i4", np.dtype(np.int64): "<i8"}

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class SparseLayer:
    """The topology of one sparse layer."""

    atoms: LiveAtoms
    topology_version: int


@dataclass(frozen=True)
class DenseState:
    """Dense parameters; immutable. Make one by `of`.

    >>> DenseState.of({"bias": np.zeros(3, np.float32)}).pack(RowEncoding.FP16)
    b'\\x00\\x00\\x00\\x00\\x00\\x00'
    """

    tensors: Mapping[str, Array]
    layers: Mapping[str, SparseLayer]  # by the prefix of their tensors' names, the dot included
    identity: int = 0  # of the model: its layout and id

    @staticmethod
    def of(tensors: Mapping[str, npt.ArrayLike], identity: int = 0) -> DenseState:
        """Return the state of `tensors`, arrays or those of torch on the CPU, in the model of `identity`.

        The caller must not change them afterwards.

        Raises:
            ValueError: dtype or shape of a tensor fits no dense and no sparse layer; the message names it.
        """
        arrays = {name: np.asarray(tensor) for name, tensor in tensors.items()}
        prefixes = sorted(name.removesuffix(_BOUNDS) for name in arrays if _is_named(name, _BOUNDS))
        layers = {prefix: _layer_of(arrays, prefix) for prefix in prefixes}
        topologies = {f"{prefix}{part}" for prefix in prefixes for part in _TOPOLOGY}
        for name, array in arrays.items():
            if name not in topologies and array.dtype != _FLOAT32:
                raise ValueError(f"dense.{name} must be float32, got {array.dtype}")
        return DenseState(arrays, layers, identity)

    @cached_property
    def fingerprint(self) -> int:
        """Return the CRC-32C of names, shapes and topologies, over the bytes that parameter_sync.proto defines, from the identity on."""
        crc = self.identity
        for name in _in_wire_order(self.tensors):
            tensor = self.tensors[name]
            crc = crc32c(name.encode() + b"\0" + np.array([tensor.ndim, *tensor.shape], "<i8").tobytes(), crc)
            if tensor.dtype in _WIRE_DTYPES:
                crc = crc32c(tensor.astype(_WIRE_DTYPES[tensor.dtype]).tobytes(), crc)
        return crc

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each tensor with weights, sorted by the bytes of their names."""
        return {name: self.tensors[name].shape for name in _in_wire_order(self.tensors) if self.tensors[name].dtype == _FLOAT32}

    def pack(self, encoding: RowEncoding) -> bytes:
        """Return the weights of all tensors, sorted by the bytes of their names, each row-major.

        Raises:
            ModelNotFinite: a weight is NaN or infinite.
        """
        return b"".join(self._pack(name, encoding) for name in self.shapes)

    def num_packed_bytes(self, encoding: RowEncoding) -> int:
        """Return the size of the bytes of `pack`."""
        return row_bytes(sum(map(prod, self.shapes.values())), encoding)

    def with_layers(self, layers: Mapping[str, SparseLayer]) -> DenseState:
        """Return a state in which the sparse layers `layers` have new topologies; all their weights are zero."""
        changed: dict[str, Array] = {}
        for prefix, layer in layers.items():
            height = self.tensors[f"{prefix}{_VALUES}"].shape[1]
            changed[f"{prefix}{_BOUNDS}"] = layer.atoms.bounds
            changed[f"{prefix}{_COLUMNS}"] = layer.atoms.columns
            changed[f"{prefix}{_VERSION}"] = np.array(layer.topology_version, np.int64)
            changed[f"{prefix}{_VALUES}"] = np.zeros((layer.atoms.num_atoms, height), np.float32)
        return replace(self, tensors={**self.tensors, **changed}, layers={**self.layers, **layers})

    def with_weights(self, packed: bytes, encoding: RowEncoding) -> DenseState:
        """Return a state of this fingerprint with the weights `packed`, `num_packed_bytes` long."""
        row = np.frombuffer(packed, np.uint8)[np.newaxis]
        shapes = self.shapes
        ends = np.cumsum([prod(shape) for shape in shapes.values()], dtype=np.int64)
        weights = unpack_rows(row, int(ends[-1]) if shapes else 0, encoding)[0]  # (n,)
        parts = np.split(weights, ends[:-1]) if shapes else []
        changed = {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
        return replace(self, tensors={**self.tensors, **changed})

    def _pack(self, name: str, encoding: RowEncoding) -> bytes:
        try:
            return pack_rows(self.tensors[name].reshape(1, -1), encoding).tobytes()
        except ModelNotFinite as error:
            raise ModelNotFinite(f"dense.{name}: {error}") from None


def _in_wire_order(names: Mapping[str, Array]) -> Iterator[str]:
    """Yield names sorted by their bytes in UTF-8, which is also the order of Python strings."""
    return iter(sorted(names))


def _is_named(name: str, part: str) -> bool:
    return name == part or name.endswith(f".{part}")


def _layer_of(tensors: Mapping[str, Array], prefix: str) -> SparseLayer:
    """Return the sparse layer of `prefix`."""
    for part, dtype in {**_TOPOLOGY, _VALUES: _FLOAT32}.items():
        tensor = tensors.get(f"{prefix}{part}")
        if tensor is None or tensor.dtype != dtype:
            raise ValueError(f"dense.{prefix}{part} must be {dtype}, got {None if tensor is None else tensor.dtype}")
    try:
        atoms = LiveAtoms.of(tensors[f"{prefix}{_BOUNDS}"], tensors[f"{prefix}{_COLUMNS}"])
    except ValueError as error:
        raise ValueError(f"dense.{prefix}{error}") from None
    topology_version, values = tensors[f"{prefix}{_VERSION}"], tensors[f"{prefix}{_VALUES}"]
    if topology_version.ndim != 0 or topology_version < 0:
        raise ValueError(f"dense.{prefix}{_VERSION} must be one number >= 0, got {topology_version.tolist()}")
    if values.ndim != 2 or len(values) != atoms.num_atoms:
        raise ValueError(f"dense.{prefix}{_VALUES} must be ({atoms.num_atoms}, h), got {values.shape}")
    return SparseLayer(atoms, int(topology_version))
