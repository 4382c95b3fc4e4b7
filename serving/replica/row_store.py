"""Packed rows in one FBGEMM inference table: write row ids, grow, pool bags of row ids. Only this module imports FBGEMM.

Letters: n row ids, F features, B rows of a batch, D = dim, R = bytes of one packed row.
"""

from __future__ import annotations

import ctypes
import logging
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
from monolith_py.sync import ByteArray, RowEncoding, row_bytes

Int32Array = npt.NDArray[np.int32]
_logger = logging.getLogger(__name__)

# FBGEMM's kernels may read past the last row by a vector.
_TAIL_BYTES = 128
_SPARSE_TYPES = {
    RowEncoding.FP32: SparseType.FP32,
    RowEncoding.FP16: SparseType.FP16,
    RowEncoding.INT8: SparseType.INT8,
    RowEncoding.INT4: SparseType.INT4,
}


def _fill_processor_flags() -> None:
    """Fill the processor flags that FBGEMM reads.

    torch 2.14 holds them twice, in libtorch and in libc10, and fills only those of libtorch. FBGEMM reads those of libc10, finds neither
    AVX2 nor AVX-512 and pools in plain loops, 20 times slower. With a single copy this writes it onto itself; a build of torch without
    these symbols is left as it is.
    """
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return
    flags = ctypes.c_ubyte * 85  # struct cpuinfo_x86_isa, one bool each
    try:
        filled = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch.so"))
        read = ctypes.CDLL(str(Path(fbgemm_gpu.__file__).parent / "fbgemm.so"))  # resolves to the copy that FBGEMM's code resolves to
        filled.cpuinfo_initialize()
        ctypes.memmove(flags.in_dll(read, "cpuinfo_isa"), flags.in_dll(filled, "cpuinfo_isa"), ctypes.sizeof(flags))
    except (OSError, ValueError, AttributeError) as error:
        _logger.warning("FBGEMM may run without vector instructions: %s", error)


_fill_processor_flags()


class RowStore:
    """Rows of one width and encoding for F features, on one device.

    FBGEMM has no lock: `write` must not touch a row id that a concurrent `pool` may read. `grow` may run during `pool`.
    """

    def __init__(self, dim: int, encoding: RowEncoding, num_features: int, device: torch.device, capacity: int = 1024) -> None:
        on_cpu = device.type == "cpu"
        self._row_bytes = row_bytes(dim, encoding)
        self._device, self._num_features = device, num_features
        # One physical table for all features, so that one call pools them all. No bounds check: row ids come from our own id maps.
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
        """Return the number of row ids, which are [0, capacity)."""
        return self._capacity

    @property
    def num_bytes(self) -> int:
        """Return the memory of the rows in bytes."""
        return self._capacity * self._stride

    def grow(self, capacity: int) -> None:
        """Grow to `capacity` rows, not fewer than now; rows keep their ids and bytes."""
        assert self._capacity <= capacity < 2**31, (self._capacity, capacity)
        weights = torch.zeros(capacity * self._stride + _TAIL_BYTES, dtype=torch.uint8, device=self._device)
        if self._capacity:
            used = self._capacity * self._stride
            weights[:used] = getattr(self._tbe, self._weights_name)[:used]
        # A concurrent `pool` reads the old or the new buffer; the rows that it may read are equal in both.
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

    def read(self, ids: Int64Array) -> ByteArray:
        """Return the packed rows uint8 (n, R) at the row ids int64 (n,)."""
        weights: Tensor = getattr(self._tbe, self._weights_name)
        rows = weights[: self._capacity * self._stride].view(self._capacity, self._stride)
        picked: ByteArray = rows[torch.from_numpy(ids).to(self._device)].cpu().numpy()
        return np.ascontiguousarray(picked[:, : self._row_bytes])

    def pool(self, ids: Int32Array, offsets: Int32Array) -> Tensor:
        """Return the sum of each bag's rows, float32 (B, F * D): `ids` (n,) feature-major, `offsets` (F * B + 1,). Id -1 is a zero row."""
        pooled: Tensor = self._tbe(torch.from_numpy(ids).to(self._device), torch.from_numpy(offsets).to(self._device))
        return pooled
