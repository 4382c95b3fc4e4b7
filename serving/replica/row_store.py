"""Packed rows in one FBGEMM inference table: write any row id, grow, and pool bags of row ids. FBGEMM's one door.

Letters: n row ids, F features, B rows of a batch, D = dim, R = bytes of one packed row.
"""

from __future__ import annotations

import ctypes
import platform
from pathlib import Path

import fbgemm_gpu
import numpy as np
import numpy.typing as npt
import torch
from fbgemm_gpu.split_embedding_configs import SparseType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import BoundsCheckMode, EmbeddingLocation, PoolingMode
from fbgemm_gpu.split_table_batched_embeddings_ops_inference import IntNBitTableBatchedEmbeddingBagsCodegen
from torch import Tensor

from monolith_py.data.columns import Int64Array
from monolith_py.sync import RowEncoding, row_bytes
from monolith_py.sync.rows import ByteArray

Int32Array = npt.NDArray[np.int32]

# FBGEMM's kernels may read past the last row by a vector.
_TAIL_BYTES = 128
_SPARSE_TYPES = {RowEncoding.FP32: SparseType.FP32, RowEncoding.FP16: SparseType.FP16, RowEncoding.INT8: SparseType.INT8}


def _let_fbgemm_see_the_processor() -> None:
    """Fill the flags of the processor that FBGEMM reads.

    torch 2.14 holds them twice, in libtorch and in libc10, and fills those of libtorch alone. FBGEMM reads those of libc10, finds neither
    AVX2 nor AVX-512 there and pools in plain loops, 20 times slower. Where there is one copy this writes it onto itself.
    """
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return
    filled = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch.so"))
    read = ctypes.CDLL(str(Path(fbgemm_gpu.__file__).parent / "fbgemm.so"))  # finds the copy that FBGEMM's own code finds
    filled.cpuinfo_initialize()
    flags = ctypes.c_ubyte * 85  # struct cpuinfo_x86_isa, a bool each
    ctypes.memmove(flags.in_dll(read, "cpuinfo_isa"), flags.in_dll(filled, "cpuinfo_isa"), ctypes.sizeof(flags))


_let_fbgemm_see_the_processor()


class RowStore:
    """Rows of one width and encoding for F features, on one device.

    FBGEMM has no lock: `write` must never touch a row id that a concurrent `pool` may ask for. `grow` may run during `pool`.
    """

    def __init__(self, dim: int, encoding: RowEncoding, num_features: int, device: torch.device, capacity: int = 1024) -> None:
        on_cpu = device.type == "cpu"
        self._row_bytes = row_bytes(dim, encoding)
        self._device, self._num_features = device, num_features
        # One physical table that all features map to, so one call pools all of them. Row ids come from our own id maps: no bounds check.
        self._tbe = IntNBitTableBatchedEmbeddingBagsCodegen(
            [("rows", 1, dim, _SPARSE_TYPES[encoding], EmbeddingLocation.HOST if on_cpu else EmbeddingLocation.DEVICE)],
            feature_table_map=[0] * num_features,
            device=device,
            pooling_mode=PoolingMode.SUM,
            output_dtype=SparseType.FP32,
            bounds_check_mode=BoundsCheckMode.NONE,
        )
        self._tbe.initialize_weights()
        self._weights_name = "weights_host" if on_cpu else "weights_dev"
        alignment: int = self._tbe.row_alignment
        self._stride = -(-self._row_bytes // alignment) * alignment
        self._capacity = 0
        self.grow(capacity)

    @property
    def capacity(self) -> int:
        """Return the number of row ids: [0, capacity)."""
        return self._capacity

    @property
    def num_bytes(self) -> int:
        """Return the memory of the rows."""
        return self._capacity * self._stride

    def grow(self, capacity: int) -> None:
        """Make room for `capacity` rows, at least as many as now; a row keeps its id and its bytes."""
        assert self._capacity <= capacity < 2**31, (self._capacity, capacity)
        weights = torch.zeros(capacity * self._stride + _TAIL_BYTES, dtype=torch.uint8, device=self._device)
        if self._capacity:
            used = self._capacity * self._stride
            weights[:used] = getattr(self._tbe, self._weights_name)[:used]
        # A `pool` that runs meanwhile reads the old buffer or the new one: the rows that it may ask for are the same in both.
        setattr(self._tbe, self._weights_name, weights)
        self._tbe.rows_per_table = torch.full((self._num_features,), capacity, dtype=torch.int64, device=self._device)
        self._capacity = capacity

    def write(self, ids: Int64Array, rows: ByteArray) -> None:
        """Write packed rows uint8 (n, R) at the row ids int64 (n,)."""
        if not len(ids):
            return
        if self._stride != self._row_bytes:
            padded = np.zeros((len(rows), self._stride), np.uint8)
            padded[:, : self._row_bytes] = rows
            rows = padded
        tbe = self._tbe
        torch.ops.fbgemm.emb_inplace_update(
            getattr(tbe, self._weights_name),
            tbe.weights_uvm,
            tbe.weights_placements,
            tbe.weights_offsets,
            tbe.weights_tys,
            tbe.D_offsets,
            torch.from_numpy(np.require(rows, requirements=["C", "W"])).view(-1).to(self._device),
            torch.zeros(len(ids), dtype=torch.int32, device=self._device),
            torch.from_numpy(ids).to(self._device),
            torch.arange(0, (len(ids) + 1) * self._stride, self._stride, device=self._device),
            tbe.row_alignment,
        )

    def pool(self, ids: Int32Array, offsets: Int32Array) -> Tensor:
        """Return the sum of each bag's rows, float32 (B, F * D): `ids` (n,) feature-major, `offsets` (F * B + 1,). Id -1 adds nothing."""
        pooled: Tensor = self._tbe(torch.from_numpy(ids).to(self._device), torch.from_numpy(offsets).to(self._device))
        return pooled
