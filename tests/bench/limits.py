"""limits.cpp, compiled for this machine and called through ctypes.

Letters: n ids of a batch, N rows, D their dim.
"""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

_SOURCE = Path(__file__).with_name("limits.cpp")
_FLAGS = ("-O3", "-march=native", "-std=c++20", "-shared", "-fPIC")
_LOAD = 0.8  # share of a bucket's entries that are taken
_LINE_BYTES = 64

UInt32Array = npt.NDArray[np.uint32]
FloatArray = npt.NDArray[np.float32]


def compile_limits(folder: Path) -> ctypes.CDLL:
    """Return the compiled library, which lies in `folder`. Boost is looked for where g++ looks, CPATH included."""
    target = folder / "limits.so"
    subprocess.run(["g++", *_FLAGS, "-o", str(target), str(_SOURCE)], check=True)
    library = ctypes.CDLL(str(target))
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    for name, result, arguments in (
        ("limits_map", pointer, [size]),
        ("limits_unmap", None, [pointer, size]),
        ("limits_fill", None, [pointer, pointer, size]),
        ("limits_probe_gather", ctypes.c_int, [pointer, pointer, pointer, size, size, pointer]),
        ("limits_sort_update", ctypes.c_int, [pointer, pointer, pointer, pointer, size, ctypes.c_uint32, size, ctypes.c_float]),
        ("flat_map_new", pointer, []),
        ("flat_map_delete", None, [pointer]),
        ("flat_map_insert", size, [pointer, pointer, size]),
    ):
        if name.startswith("limits_") or has_flat_map(library):
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    return library


def has_flat_map(library: ctypes.CDLL) -> bool:
    """Return whether Boost 1.81 or newer was there to compile."""
    return hasattr(library, "flat_map_new")


class FlatMap:
    """boost::unordered_flat_map from 64-bit keys to numbers."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._map = library.flat_map_new()

    def insert(self, keys: npt.NDArray[np.int64]) -> int:
        """Insert keys (n,), one after the other as that map is used; return its size."""
        return int(self._library.flat_map_insert(self._map, keys.ctypes.data, len(keys)))

    def close(self) -> None:
        """Free the map."""
        self._library.flat_map_delete(self._map)


class BareRows:
    """Rows on huge pages, and bucket lines that hold their numbers: what a look-up and an update cannot do without."""

    def __init__(self, library: ctypes.CDLL, num_rows: int, dim: int, generator: np.random.Generator) -> None:
        assert dim * 4 % _LINE_BYTES == 0
        self._library = library
        self._num_rows, self._lines = num_rows, dim * 4 // _LINE_BYTES
        num_buckets = int(num_rows / _LOAD) // 4 + 1
        self._places = generator.permutation(num_buckets * 4)[:num_rows].astype(np.uint32)
        self._sizes = (num_buckets * _LINE_BYTES, num_rows * dim * 4, num_rows * 4)
        self._buckets, self._rows, self._state = (self._map(size) for size in self._sizes)
        library.limits_fill(self._buckets, self._places.ctypes.data, num_rows)
        values = (ctypes.c_float * (num_rows * dim)).from_address(self._rows)
        self.weights: FloatArray = np.frombuffer(values, np.float32).reshape(num_rows, dim)  # gone after close

    def _map(self, num_bytes: int) -> int:
        address: Any = self._library.limits_map(num_bytes)
        if address is None:
            raise MemoryError(f"limits.cpp needs {num_bytes} bytes more")
        return int(address)

    def places(self, rows: npt.NDArray[np.int64]) -> UInt32Array:
        """Return where the bucket lines hold these rows, uint32 (n,)."""
        return self._places[rows]

    def probe_gather(self, places: UInt32Array, out: FloatArray) -> None:
        """Read the row number at each place and copy that row into `out`, (n, D)."""
        done = self._library.limits_probe_gather(self._buckets, self._rows, places.ctypes.data, len(places), self._lines, out.ctypes.data)
        assert done

    def sort_update(self, rows: UInt32Array, gradients: FloatArray, lr: float, *, with_state: bool = False) -> None:
        """Sort rows (n,) and subtract lr * gradient (n, D) from each, or take row-wise Adagrad's step, which has one float of state."""
        state = self._state if with_state else None
        done = self._library.limits_sort_update(
            self._rows, state, gradients.ctypes.data, rows.ctypes.data, len(rows), self._num_rows, self._lines, lr
        )
        assert done

    def close(self) -> None:
        """Give the memory back."""
        del self.weights
        for address, size in zip((self._buckets, self._rows, self._state), self._sizes, strict=True):
            self._library.limits_unmap(address, size)
