"""The C++ core: collisionless embedding tables in batches. numpy views cross the border, the GIL is released inside."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Int64Array = npt.NDArray[np.int64]
UInt32Array = npt.NDArray[np.uint32]
FloatArray = npt.NDArray[np.float32]

NO_ROW: int  # 0xFFFFFFFF: this fid has no row

def simd_level() -> str: ...  # "avx512" | "avx2" | "portable"
def set_simd_level(level: str) -> None: ...  # for tests: force a lower level
def set_num_threads(num_threads: int) -> None: ...
def num_threads() -> int: ...
def hash_fids(fids: Int64Array) -> npt.NDArray[np.uint64]: ...  # the id map's hash, pinned by golden values

class IdMap:
    """fid -> row id, without a row store: what a replica needs. One writer; any number of threads may call `find` meanwhile."""

    def __init__(self, capacity: int = 0) -> None: ...
    def __len__(self) -> int: ...
    def find(self, fids: Int64Array, rows: UInt32Array) -> None: ...  # NO_ROW where absent
    def assign(
        self, fids: Int64Array, rows: UInt32Array, old_rows: UInt32Array
    ) -> None: ...  # fid -> row; old_rows gets what it was, or NO_ROW
    def erase(self, fids: Int64Array, old_rows: UInt32Array) -> None: ...
    def items(self) -> tuple[Int64Array, UInt32Array]: ...

class Table:
    """One embedding table: id map, row store, admission, expiry, touched set. One writer; `find`/`gather` may run meanwhile."""

    def __init__(
        self,
        dim: int,
        optimizer: str,  # "sgd" | "adagrad" | "rowwise_adagrad" | "adam" | "ftrl"
        hyper: dict[str, float],  # lr, eps, initial_accumulator, beta1, beta2, l1, l2, beta
        init_scale: float,  # uniform in [-init_scale, init_scale), a pure function of (seed, fid)
        seed: int,
        admit_after: int,
        ttl_s: int,  # 0: rows never expire
    ) -> None: ...
    def __len__(self) -> int: ...  # live rows
    @property
    def dim(self) -> int: ...
    def set_lr(self, lr: float) -> None: ...
    def find(self, fids: Int64Array, rows: UInt32Array) -> None: ...
    def find_or_insert(self, fids: Int64Array, now_s: int, rows: UInt32Array) -> None: ...  # counts admission; NO_ROW while not admitted
    def gather(self, rows: UInt32Array, weights: FloatArray) -> None: ...  # (n, dim); zeros for NO_ROW
    def update(self, rows: UInt32Array, gradients: FloatArray, now_s: int) -> None: ...  # sums duplicates, skips NO_ROW
    def evict(self, now_s: int) -> Int64Array: ...  # fids of rows not seen for more than ttl_s
    def drain(self, consumer: str) -> tuple[int, Int64Array, FloatArray, Int64Array]: ...  # ticket, fids, weights (n, dim), evicted
    def register_consumer(self, consumer: str) -> None: ...  # it starts with nothing to drain
    def ack(self, consumer: str, ticket: int) -> None: ...
    def export_rows(self) -> tuple[Int64Array, FloatArray]: ...  # fids (n,), weights (n, dim), sorted by fid
    def save(self, path: str) -> None: ...
    def restore(self, path: str) -> None: ...  # into a table of equal settings, which must be empty
    def stats(self) -> dict[str, int]: ...  # rows, candidates (counted, not admitted), admitted, filtered, evicted, bytes, id_map_capacity

class SnapshotError(OSError): ...  # a snapshot is absent, torn, damaged or of another table

def restore_table(path: str) -> Table: ...  # with the settings it was saved with
def pooled_forward(
    tables: Sequence[Table],  # one for each feature; a table may appear more than once
    fids: Int64Array,  # (n,) feature-major as in a KeyedJaggedTensor
    offsets: Int64Array,  # (F * B + 1,)
    mean: Sequence[bool],  # (F,) mean pooling instead of sum
    now_s: int,
    insert: bool,  # training: find_or_insert; else find only
    pooled: FloatArray,  # out, (B, sum of dims)
    rows: UInt32Array,  # out, (n,)
) -> None: ...
def pooled_backward(
    tables: Sequence[Table],
    rows: UInt32Array,  # (n,) from pooled_forward
    offsets: Int64Array,
    mean: Sequence[bool],
    gradients: FloatArray,  # (B, sum of dims)
    now_s: int,
) -> int: ...  # rows updated
