"""The C++ core: embedding tables, feature interactions and sparse towers. Arguments are numpy views; long calls release the GIL."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Int64Array = npt.NDArray[np.int64]
UInt32Array = npt.NDArray[np.uint32]
Int32Array = npt.NDArray[np.int32]
FloatArray = npt.NDArray[np.float32]

NO_ROW: int  # 0xFFFFFFFF: the fid has no row

def simd_level() -> str: ...  # "avx512" | "avx2" | "portable"
def simd_levels() -> list[str]: ...  # available on this machine, best first
def set_simd_level(level: str) -> None: ...  # for tests and benchmarks
def set_num_threads(num_threads: int) -> None: ...  # of the one pool of the process
def num_threads() -> int: ...
def hash_fids(fids: Int64Array) -> npt.NDArray[np.uint64]: ...  # the id map's hash, pinned by tests/golden

class IdMap:
    """Map from fid to row id, for a replica. It has its own lock: calls of `find` run together, `assign` and `erase` exclude them."""

    def __init__(self, capacity: int = 0) -> None: ...
    def __len__(self) -> int: ...
    def find(self, fids: Int64Array, rows: UInt32Array) -> None: ...  # NO_ROW where absent
    def assign(self, fids: Int64Array, rows: UInt32Array, old_rows: UInt32Array) -> None: ...  # old_rows: out, the row before, or NO_ROW
    def erase(self, fids: Int64Array, old_rows: UInt32Array) -> None: ...
    def items(self) -> tuple[Int64Array, UInt32Array]: ...

class ReplicaRowsHandle:
    """Rows of a replica, as `CoreRanker` takes them."""

class ReplicaRows:
    """Packed rows of all features of a replica; features by their place in the list. Look-ups take no lock and run beside a change.

    `assign` and `insert_all` return whether the rows fit `max_rows`; if not, nothing was changed.
    """

    # Name, dim, encoding, whether bags are means, number of bags in a row.
    def __init__(self, features: list[tuple[str, int, str, bool, int]], max_rows: int = ...) -> None: ...
    @property
    def handle(self) -> ReplicaRowsHandle: ...
    @property
    def num_rows(self) -> int: ...
    @property
    def num_bytes(self) -> int: ...  # rows and id maps
    @property
    def digest(self) -> int: ...
    # Pool all bags into pooled (B, sum of dims): lengths (bags of a row, B) and fids bag by bag of a row.
    def pool_by_feature(self, lengths: Int32Array, fids: Int64Array, pooled: FloatArray) -> None: ...
    def assign(self, feature: int, fids: Int64Array, rows: npt.NDArray[np.uint8]) -> bool: ...  # (n,), (n, R)
    def insert_all(
        self, feature: int, fids: Int64Array, rows: npt.NDArray[np.uint8], num_threads: int, in_background: bool = False
    ) -> bool: ...
    def evict(self, feature: int, fids: Int64Array) -> None: ...
    def read(self, feature: int, fids: Int64Array) -> npt.NDArray[np.uint8]: ...  # (n, R), zeros for a fid without a row

class Slice:
    """A part of every row with its own optimizer."""

    def __init__(
        self,
        name: str,
        dim: int,
        optimizer: str,  # "sgd" | "momentum" | "adagrad" | ...: `monolith_py.table.optimizers`
        hyperparameters: dict[str, float],
        initializer: str,  # "zeros" | "constant" | "uniform" | "normal" | "xavier"
        init_scale: float,
        encoding: str,  # "fp32" | "fp16" | "int8" | "int4"
    ) -> None: ...
    @property
    def name(self) -> str: ...
    @property
    def dim(self) -> int: ...
    @property
    def encoding(self) -> str: ...

class Table:
    """One embedding table. It has its own lock: `find`, `gather` and inspections run together, calls that change the table exclude them."""

    def __init__(
        self,
        slices: Sequence[Slice],
        *,
        seed: int,
        admission: str,  # "count" | "sketch" | "proportional" | "geometric"
        admit_after: int,
        sketch_bytes: int,
        sketch_window_s: int,
        ttl_s: int,  # 0: rows never expire
        eviction: str,  # "none" | "lru" | "lfu" | "score"
        budget_bytes: int,
        half_life_s: int,
    ) -> None: ...
    def __len__(self) -> int: ...  # live rows
    @property
    def dim(self) -> int: ...
    @property
    def slices(self) -> list[Slice]: ...
    @property
    def num_updates(self) -> int: ...
    @property
    def snapshot_id(self) -> int: ...  # newest snapshot saved or restored; 0: none
    def set_lr(self, slice: int, lr: float) -> None: ...
    def find(self, fids: Int64Array, rows: UInt32Array) -> None: ...
    def find_or_insert(self, fids: Int64Array, now_s: int, rows: UInt32Array) -> None: ...  # NO_ROW for fids not admitted
    def gather(self, rows: UInt32Array, weights: FloatArray) -> None: ...  # (n, dim); zeros for NO_ROW
    def lookup(self, fids: Int64Array, weights: FloatArray) -> None: ...  # (n, dim); find and gather under one lock
    def update(
        self, rows: UInt32Array, gradients: FloatArray, fids: Int64Array | None = None
    ) -> int: ...  # sums equal rows, skips NO_ROW and rows of another fid; rows updated
    @property
    def state_width(self) -> int: ...  # floats of optimizer state in a row
    def assign(
        self,
        fids: Int64Array,  # (n,)
        weights: FloatArray,  # (n, dim), finite
        now_s: int,
        state: FloatArray | None = None,  # (n, S); None: that of new rows starts, others keep theirs
        counts: npt.NDArray[np.uint16] | None = None,  # (n,); None: one more sighting
        seen_s: Int64Array | None = None,  # (n,); None: now_s
    ) -> None: ...
    def remove(self, fids: Int64Array) -> Int64Array: ...  # fids that had rows, sorted
    def clear(self) -> None: ...
    def shrink(self, bytes: float) -> None: ...  # evicts rows of least priority until `used_bytes` is at most that
    @property
    def used_bytes(self) -> float: ...  # of rows with their entries in the id map
    @property
    def num_free_rows(self) -> int: ...  # allocated and not in use
    def row_fids(self) -> Int64Array: ...  # all fids with a row, sorted
    def read(
        self, fids: Int64Array
    ) -> tuple[
        Int64Array, FloatArray, FloatArray, npt.NDArray[np.uint16], Int64Array
    ]: ...  # of those with a row: fids, weights, state, counts, seen_s
    def evict(self, now_s: int, max_slots: int) -> Int64Array: ...  # rows not seen for more than ttl_s; max_slots 0: look at all
    def drain(
        self, consumer: str, encoded: bool
    ) -> tuple[int, Int64Array, Any, Int64Array, int]: ...  # ticket, fids, weights (n, dim) or packed rows (n, R), evicted, digest
    def ack(self, consumer: str, ticket: int) -> None: ...
    def touch(self, consumer: str, fids: Int64Array) -> None: ...  # its next drain returns them, changed or not
    def forget(self, consumer: str) -> bool: ...  # False: no such consumer
    def waiting(self) -> dict[str, int]: ...  # changes that wait for each consumer
    def export_rows(self) -> tuple[Int64Array, FloatArray]: ...  # fids (n,), weights (n, dim), sorted by fid
    def entries(self) -> tuple[Int64Array, UInt32Array, npt.NDArray[np.uint16], Int64Array]: ...  # fids, rows, counts, seen_s
    def state(self, rows: UInt32Array) -> FloatArray: ...
    def start_saving(self, path: str, id: int, parent: int) -> Saving: ...  # parent 0: a base
    def restore(self, path: str, part: int, parts: int) -> None: ...  # a base into a new table, or an increment to the table it continues
    def stats(self) -> dict[str, int]: ...  # rows, candidates (counted, not admitted), admitted, filtered, evicted, freed, bytes, ...

class Saving:
    """A snapshot in progress."""

    def copy(self, max_rows: int) -> bool: ...  # True: more to copy
    def finish(self) -> None: ...
    def cancel(self) -> None: ...
    def commit(self, track: bool) -> None: ...

class NotFinite(FloatingPointError): ...  # a gradient is NaN, infinite, or 2^48 or more
class TableFull(ValueError): ...  # a table needs more than 4,294,967,294 rows
class SnapshotError(OSError): ...  # a snapshot is absent, torn, damaged, or of another table

def restore_table(path: str, part: int, parts: int) -> Table: ...  # with the settings of the snapshot
def pack_snapshot(snapshot: str, path: str) -> int: ...  # writes the packed rows of a base; number of rows

class PackedRows:
    """A file of packed rows. Raises SnapshotError for what is torn or damaged, a chunk's bytes when it is read."""

    dim: int
    encoding: str
    digest: int  # of all rows, as `digest_rows`
    num_chunks: int
    def __init__(self, path: str) -> None: ...
    def __len__(self) -> int: ...
    def chunk(self, index: int) -> tuple[Int64Array, npt.NDArray[np.uint8]]: ...  # fids (n,), rows (n, R); views of the file

def pack_rows(weights: FloatArray, encoding: str) -> npt.NDArray[np.uint8]: ...  # (n, dim) -> (n, R), as `drain` packs a slice
def digest_rows(fids: Int64Array, rows: npt.NDArray[np.uint8], encoding: str) -> int: ...  # (n,), (n, R) -> 64 bits, in no order
def offsets_of(
    lengths: Int32Array,  # (n,) lengths of the bags
    offsets: Int64Array,  # out, (n + 1,): first position of each bag, and the end
) -> None: ...
def pooled_forward(
    tables: Sequence[Table],  # one per feature; a table may repeat
    fids: Int64Array,  # (n,) feature-major, as in a KeyedJaggedTensor
    offsets: Int64Array,  # (F * B + 1,)
    weights: FloatArray | None,  # (n,) factor of each row; None: 1
    pooling: Sequence[int],  # (F,) 0 sums, 1 takes the mean, -n keeps the rows of the first n fids
    now_s: int,
    learns: Sequence[bool],  # (F,) True: find_or_insert (training); False: find
    pooled: FloatArray,  # out, (B, sum of widths)
    rows: UInt32Array,  # out, (n,)
) -> list[int]: ...  # (F,) rows that each table has freed so far, for `pooled_backward`
def pooled_backward(
    tables: Sequence[Table],
    fids: Int64Array,  # (n,)
    rows: UInt32Array,  # (n,) from pooled_forward; changed where the row was freed since
    released: Sequence[int],  # (F,) from pooled_forward
    offsets: Int64Array,
    weights: FloatArray | None,
    pooling: Sequence[int],
    gradients: FloatArray,  # (B, sum of widths), below 2^48
) -> tuple[int, int]: ...  # rows updated; positions whose fid lost its row since
def has_amx() -> bool: ...  # whether bf16 stacks run in AMX

class TowerTape:
    """Forward state of one later `backward`."""

    @property
    def batch(self) -> int: ...

class TowerStack:
    """Linear layers of live atoms: `atom_height` outputs x 1 input, B examples, I inputs and O outputs of a layer.

    A layer has blocks = ceil(O / atom_height); its atoms are ordered by block, then by input. `forward` and `backward` may run
    together on any threads. Results do not depend on the number of threads of the pool.
    """

    def __init__(
        self,
        layers: Sequence[tuple[int, int, bool]],  # (inputs, outputs, relu); at most 65536 inputs
        atom_height: int,  # 16 or 1
        bf16: bool,  # round inputs of all layers, weights and output gradients to bfloat16; sums stay float32
    ) -> None: ...
    @property
    def engine(self) -> str: ...  # "amx" | "avx512" | "avx2" | "portable"
    def set_topology(
        self,
        layer: int,
        bounds: UInt32Array | Int32Array,  # (blocks + 1,): atoms of block b are [bounds[b], bounds[b + 1])
        columns: Int32Array,  # (atoms,): input of each atom, ascending within a block
    ) -> None: ...  # a new stack has no live atoms; load weights after each call
    def load(self, values: Sequence[FloatArray], biases: Sequence[FloatArray]) -> None: ...  # copies (atoms, atom_height) and (O,)
    def forward(
        self,
        inputs: Sequence[FloatArray],  # (B, w) each: the first layer's inputs in parts, side by side
        outputs: FloatArray,  # out, (B, O)
    ) -> None: ...
    def forward_tape(self, inputs: Sequence[FloatArray], outputs: FloatArray) -> TowerTape: ...
    def backward(
        self,
        tape: TowerTape,  # from a forward since the last load
        grad_outputs: FloatArray,  # (B, O)
        grad_inputs: Sequence[FloatArray | None],  # out, shaped as the inputs; None: not wanted
        grad_values: Sequence[FloatArray],  # out, shaped as the values
        grad_biases: Sequence[FloatArray],  # out, shaped as the biases
        grad_all: Sequence[FloatArray] | None,  # (blocks, I, atom_height) of every atom, dead or live: ADDED
    ) -> None: ...

def tower_adam(  # Adam, in place, with a step count for each atom
    values: Sequence[FloatArray],  # each (n, h), like gradients, m and v
    gradients: Sequence[FloatArray],
    m: Sequence[FloatArray],
    v: Sequence[FloatArray],
    steps: Sequence[UInt32Array],  # each (n,): incremented first
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    grad_scale: float,  # gradients are divided by it
) -> None: ...
def tower_adagrad(  # in place, each array (n, h)
    values: Sequence[FloatArray], gradients: Sequence[FloatArray], state: Sequence[FloatArray], lr: float, eps: float, grad_scale: float
) -> None: ...
def tower_taylor(  # add |sum over an atom of value * gradient| / grad_scale
    values: Sequence[FloatArray],  # each (n, h), like gradients
    gradients: Sequence[FloatArray],
    sums: Sequence[FloatArray],  # each (n,)
    grad_scale: float,
) -> None: ...
def keep_freed_memory() -> None: ...  # for training: keep freed memory for the next step; needs glibc
def all_bounded(arrays: Sequence[FloatArray]) -> bool: ...  # whether every value is finite and below 2^48 in magnitude
def factorize(pooled: FloatArray, num_features: int, terms: FloatArray) -> None: ...  # (B, F * D) -> (B, 2): first-order sum, pairwise sum
def factorize_backward(
    pooled: FloatArray,
    num_features: int,
    grad_terms: FloatArray,  # (B, 2)
    beside: FloatArray | None,  # (B, F * D) added to the gradients; rows may be strided
    gradients: FloatArray,  # out, (B, F * D); may be `beside`
) -> None: ...
def pairwise_dots(pooled: FloatArray, num_features: int, pairs: FloatArray) -> None: ...  # (B, F * D) -> (B, F * (F - 1) / 2)
def pairwise_dots_backward(
    pooled: FloatArray,
    num_features: int,
    grad_pairs: FloatArray,  # (B, F * (F - 1) / 2)
    beside: FloatArray | None,
    gradients: FloatArray,
) -> None: ...

# (offset, event time, value) of the records of a batch of Kafka's format 2, from byte `start` on; `append_ms`: the broker's time, or -1;
# ValueError if they are not whole. `time_header`: name of the header with the event time.
def kafka_records(
    data: bytearray, start: int, num_records: int, base_offset: int, first_ms: int, append_ms: int, time_header: bytes
) -> list[tuple[int, int, bytes]]: ...

class JobFeatures:
    """Sparse features and dense ones, with their widths, in the order of the model input."""

    def __init__(self, sparse: Sequence[str], dense: Sequence[tuple[str, int]]) -> None: ...

class ExampleRecord:
    """A record of B examples (`monolith_py/io/codec/examples.py`), a view of its bytes."""

    @staticmethod
    def read(value: bytes) -> ExampleRecord | None: ...  # None: it breaks a rule, or has another form than the core reads
    def __len__(self) -> int: ...
    @property
    def value(self) -> bytes: ...
    @property
    def metadata(self) -> dict[str, str]: ...  # the writer's own
    @property
    def tasks(self) -> list[str]: ...
    @property
    def widths(self) -> dict[str, int]: ...  # of the dense features
    @property
    def time_range_ms(self) -> tuple[int, int]: ...  # first and last event time
    @property
    def times_ms(self) -> Int64Array: ...  # (B,)

class ExampleRows:
    """B > 0 rows of records with the same tasks, and one width of each dense feature: (record, start, stop) each, stacked in order."""

    def __init__(self, parts: Sequence[tuple[ExampleRecord, int, int]]) -> None: ...
    def __len__(self) -> int: ...
    def item_ids(self) -> Int64Array: ...
    def times_ms(self) -> Int64Array: ...
    def kinds(self) -> npt.NDArray[np.uint8]: ...
    def sample_rates(self) -> FloatArray: ...
    def labels(self) -> FloatArray: ...  # (tasks, B), tasks in the order of the first record
    # Fids and lengths of the sparse features, feature by feature, int64 (n,) and int32 (F * B,); dense features float32 (B, W).
    def input(self, features: JobFeatures) -> tuple[tuple[Int64Array, Int32Array], FloatArray]: ...
    def bags(self, name: str) -> tuple[Int64Array, Int32Array]: ...  # of one feature
    def dense(self, name: str) -> FloatArray: ...  # of one feature, (B, width)
    def sparse_names(self) -> list[str]: ...  # in the order of their first appearance, as all names
    def dense_names(self) -> list[str]: ...
    # Models as (arm, version), the code of each row, and scores by task; None without any.
    def served(self) -> tuple[list[tuple[str, str]], Int32Array, list[tuple[str, FloatArray]]] | None: ...
    def request_ids(self, start: int, stop: int) -> list[str]: ...

# Packed rows: fids int64 (n,), starts int64 and lengths int32 (R, F), dense float32 (R, W).
PackedArrays = tuple[Int64Array, Int64Array, Int32Array, FloatArray]
# Request id, event time, user id, item ids int64 (B,), shared features (one row), candidates' features (B rows), scores float32 (B, tasks),
# model version.
ServedValues = tuple[str, int, int, Int64Array, PackedArrays, PackedArrays, FloatArray, str]
# Sparse features, and dense ones with their widths.
RowFeatures = tuple[Sequence[str], Sequence[tuple[str, int]]]

class ImpressionEncoder:
    """Writes impressions as protobuf's own serializer does."""

    def __init__(self, shared: RowFeatures, candidates: RowFeatures, tasks: Sequence[str], arm: str) -> None: ...
    def encode(self, requests: list[ServedValues]) -> list[bytes]: ...  # ValueError for an array of another shape or type

class RankedRequest:
    """A request, its scores and its features; all but `status` count only for the status "done", unless stated."""

    @property
    def status(self) -> str: ...  # "done", "other", "missing", "overloaded", "late" or "not_finite"
    @property
    def request_id(self) -> str: ...
    @property
    def time_ms(self) -> int: ...
    @property
    def logs_impression(self) -> bool: ...
    @property
    def is_complete(self) -> bool: ...  # whether all stored features could be read
    @property
    def expected_s(self) -> float: ...  # of the status "overloaded"
    @property
    def num_scored(self) -> int: ...  # candidates of the request
    @property
    def num_candidates(self) -> int: ...  # candidates of the answer
    @property
    def num_bytes(self) -> int: ...
    @property
    def response(self) -> bytes: ...
    @property
    def missing_users(self) -> list[int]: ...  # these three: of the status "missing"
    @property
    def missing_items(self) -> list[int]: ...
    @property
    def missing_counters(self) -> list[tuple[int, int]]: ...  # number of the counted feature, and fid

def encode_ranked(encoder: ImpressionEncoder, served: Sequence[RankedRequest]) -> list[bytes]: ...

FixedLayers = Sequence[tuple[FloatArray, FloatArray, bool, bool]]  # weights (O, I), biases (O,), ReLU, bf16

class FixedModel:
    """A ranking model with fixed weights. `kind` is "deepfm", "dlrm" or "dcn"; `features` and `dense`: shared, and of each candidate."""

    def __init__(self, kind: str, dim: int, features: tuple[int, int], dense: tuple[int, int], tasks: int) -> None: ...
    def set_top(self, layers: FixedLayers, shared: Sequence[int], candidate: Sequence[int], stacks: list[TowerStack]) -> None: ...
    def set_bottom(self, layers: FixedLayers, shared: Sequence[int], candidate: Sequence[int]) -> None: ...
    def set_cross(self, layers: Sequence[FixedLayers], beside: FixedLayers) -> None: ...  # before the top; inputs: shared, then candidate's
    def set_links(self, links: Sequence[tuple[str, int]]) -> None: ...  # kind and number of tasks, side by side
    def add_attention(
        self,
        layers: FixedLayers,  # from (row, target, product) to a weight
        places: Sequence[
            tuple[int, int, bool, int]
        ],  # of all attentions: start and length of the sequence, whether the target is shared, its row
        number: int,  # which of them this is, from 0 on
    ) -> None: ...
    def set_experts(
        self,
        gate: tuple[str, int, int, int, float, float],  # "flat" or "tree"; experts, slots, kept ones; temperature, width of splits
        scores: FixedLayers,  # the layer of the gates
        experts: Sequence[tuple[FixedLayers, list[TowerStack]]],  # as `set_top`; with stacks the layers are those after them
        biases: FloatArray,  # (T,)
        shared: Sequence[int],
        candidate: Sequence[int],
    ) -> None: ...
    def set_scales(self, scales: FloatArray) -> None: ...
    def logits(self, pooled: FloatArray, dense: FloatArray, out: FloatArray) -> None: ...  # (B, F * D), (B, W), (B, T); nothing shared

class CoreRanker:
    """Stored features and counters, and the path from a request's bytes to its answer. Any number of threads may call."""

    def __init__(
        self,
        user: tuple[int, int, int],  # number of id features and of stored ones, width of the dense ones
        item: tuple[int, int, int],
        context: tuple[Sequence[str], Sequence[tuple[str, int]]],  # sparse features of the request, name and width of the dense ones
        candidate: tuple[Sequence[str], Sequence[tuple[str, int]]],  # of each of its candidates
        # Places in the schema, places with counters, width of the dense ones, rows of sequences (0: pooled), place and width of dense ones.
        shared: tuple[Sequence[int], Sequence[int], int, Sequence[int], Sequence[tuple[int, int]]],
        candidates: tuple[Sequence[int], Sequence[int], int, Sequence[int], Sequence[tuple[int, int]]],
        no_counter: Sequence[float],
        names: tuple[Sequence[str], Sequence[str]],  # features of the schema, sparse ones first; tasks
        # Candidates, fids of a feature, least time, greatest skew and age (0: any) in ms, values of an explanation, returned ones.
        limits: tuple[int, int, int, int, int, int, int],
        store: tuple[int, int],  # entries, bytes
    ) -> None: ...
    def put_users(self, ids: Int64Array, lengths: Int32Array, fids: Int64Array, dense: FloatArray, expires_ms: int) -> None: ...
    def put_items(self, ids: Int64Array, lengths: Int32Array, fids: Int64Array, dense: FloatArray, expires_ms: int) -> None: ...
    def put_counters(
        self, number: int, ids: Int64Array, lengths: Int32Array, fids: Int64Array, dense: FloatArray, expires_ms: int
    ) -> None: ...
    @property
    def num_entities(self) -> int: ...
    @property
    def num_bytes(self) -> int: ...
    def rank(
        self,
        value: bytes,
        model: FixedModel,
        rows: ReplicaRowsHandle,
        names: tuple[str, str],  # id of a request that has none, version of the model
        times: tuple[int, int, float],  # wall and monotonic clock in milliseconds, seconds left
        staleness_ms: tuple[int, int],  # by publication, by event time
        reading: int,  # 0: fresh entries, 1: expired ones too, 2: and unknown entities, 3: and counters
        is_quick: bool,  # whether the status is "other" for a request that takes long
    ) -> RankedRequest: ...

class FrontCall:
    """A call that a Python thread must answer or refuse, once; a call that is freed before ends as INTERNAL."""

    @property
    def value(self) -> bytes: ...
    @property
    def left_s(self) -> float: ...  # to the deadline
    @property
    def is_active(self) -> bool: ...  # whether the caller still waits
    def answer(self, value: bytes) -> None: ...
    def refuse(self, code: int, details: str) -> None: ...

class RankFront:
    """A gRPC server in C++, and the answers of its calls. Any number of threads may call."""

    def __init__(
        self,
        ranker: CoreRanker | None,  # None: all calls go to `next_call`
        limits: tuple[int, int, bool],  # waiting calls, bytes of impressions that are not taken, whether there are impressions
        id_prefix: str,
        duration_bounds: Sequence[float],  # (11,) seconds
    ) -> None: ...
    def start(
        self,
        library: str,
        names: tuple[str, str, str],  # service, address, address of health checks alone or ""
        limits: tuple[int, int, int, int],  # threads, waiting calls, bytes of a message, least interval of pings in milliseconds
        times: tuple[float, float, float],  # seconds of calls: without a deadline, at most, until the message is there
        tokens: Sequence[str],
        certificates: tuple[str, str, str] | None,  # chain, key, authorities of clients or ""
    ) -> int: ...  # RuntimeError: no such library, or a port is taken
    def set_model(self, model: FixedModel, rows: ReplicaRowsHandle, version: str) -> None: ...
    def set_ages(self, born_ms: int, watermark_ms: int) -> None: ...  # monotonic clock, wall clock
    def set_serving(self, is_serving: bool) -> None: ...
    def set_certificates(self, certificates: tuple[str, str, str]) -> None: ...
    def begin_drain(self) -> None: ...
    def stop(self, finish_s: float) -> None: ...
    def close(self) -> None: ...
    def next_call(self) -> FrontCall | None: ...  # None: closed
    def answer(self, call: FrontCall, value: bytes, number: int) -> None: ...
    # Answered requests; numbers of answers with whether they were sent. Waits for the first, then for more.
    def take_ended(self, wait_s: float, linger_s: float) -> tuple[list[RankedRequest], list[tuple[int, bool]]]: ...
    # Calls by code, answers by bucket, sum of seconds, candidates, impressions withheld (by request, features, unanswered) and lost.
    def take_counts(self) -> tuple[list[int], list[int], float, int, tuple[int, int, int], int]: ...

def murmur2(data: bytes) -> int: ...  # MurmurHash2, 32 bits, with Kafka's seed

class JoinerSettings:
    """Rules of the joiner of a job, times in milliseconds; the attributes are zero or false at first (`streaming/joiner/rules.py`)."""

    emits_requests: bool
    waits_for_window: bool
    retracts: bool
    window_ms: int
    allowed_lateness_ms: int
    max_out_of_orderness_ms: int
    def set_label_widths(self, widths: Sequence[int]) -> None: ...  # bits of each task: 1, or 16 for a number; 1 each at first
    num_ahead: int  # records behind one, of a backlog, that show that it is ahead of them
    num_agreeing: int  # records of the last 8 of a topic that must have reached a time before it counts as passed
    idle_timeout_s: float
    max_skew_ms: int
    not_from_ms: int  # no event time lies in [not_from_ms, not_to_ms)
    not_to_ms: int

    def __init__(
        self,
        tasks: Sequence[str],
        kinds: Sequence[tuple[str, int, bool, bool]],  # kind of action: name, bits of its tasks, ends the wait of its candidate, of all
        widths: Mapping[str, int],  # dim of each dense feature
    ) -> None: ...
    # Of a replay, intervals in ms: places in the order that are read, event times of the impressions and places of the actions that count.
    def set_range(self, impressions: tuple[int, int], actions: tuple[int, int]) -> None: ...
    # Share of the negatives kept, and those by (feature, fid) that take its place; 1 and none at first.
    def set_negative_rates(self, default: float, by_value: Sequence[tuple[str, int, float]]) -> None: ...

class JoinedExamples:
    """Examples in columns."""

    def __len__(self) -> int: ...
    # Sparse features, dense features and their widths, indices of the tasks with served scores, models (arm, version).
    def names(self) -> tuple[list[str], list[tuple[str, int]], list[int], list[tuple[str, str]]]: ...
    def record(self, prefix: bytes) -> bytes: ...  # `prefix`, then the Arrow IPC message of the record batch and the end of the stream

class JoinedStep:
    """The examples of a step of a joiner, valid until the step is cleared."""

    def __len__(self) -> int: ...
    def newest_ms(self) -> int: ...  # event time, 0 without an example
    def examples(self, start: int, stop: int) -> JoinedExamples: ...

class JoinerLookback:
    """The oldest place in the log from which the joiner's state can be built again; places are the fields of `OpenPlace`."""

    def __init__(self, place: Sequence[int], until_ms: int, remembered_ms: int) -> None: ...
    def note(self, topic: int, offset: int, until_ms: int) -> None: ...
    def commit(self, place: Sequence[int], closed_ms: int | None) -> tuple[int, int, int, int]: ...

class JoinerPartition:
    """The joiner of one partition in memory. `topic`: 0 for impressions, 1 for actions. For one thread."""

    def __init__(
        self,
        settings: JoinerSettings,
        watermark: tuple[Any, ...],  # the fields of `WatermarkState`
        offsets: Sequence[int],
        now_s: float,
    ) -> None: ...
    # `judge`: called with a record that the core does not read; returns it in canonical form, or the reason for refusing it.
    def push(
        self, topic: int, offsets: list[int], values: list[bytes], wanted: int, wall_ms: int, judge: Callable[[bytes], bytes | str]
    ) -> None: ...
    def push_damaged(self, topic: int, offset: int, reason: str, wanted: int) -> None: ...
    def note_read(self, topic: int, now_s: float) -> None: ...
    def skip_to(self, topic: int, offset: int) -> None: ...
    def num_read_ahead(self, topic: int) -> int: ...
    def run(self, now_s: float, wall_ms: int) -> tuple[int, bool]: ...  # number of records, whether more windows are due
    def close_some(self, refuses_early: bool = True) -> bool: ...  # whether more are left to close
    def lacking(self, with_sampled_away: bool) -> list[int]: ...  # offsets of impressions
    def supply(self, offsets: list[int], values: list[bytes], judge: Callable[[bytes], bytes | str]) -> list[int]: ...  # offsets not found
    def set_max_bytes(self, max_bytes: int) -> None: ...
    @property
    def offsets(self) -> list[int]: ...
    @property
    def watermark(self) -> tuple[Any, ...]: ...
    # `open`: the fields of `OpenPlace`. The two below are the wall clock that is right now, and the end of a step: the place to read from.
    def resume(self, offsets: Sequence[int], watermark: tuple[Any, ...], advanced_ms: int | None, open: Sequence[int]) -> None: ...
    def forget_wall_clock(self, wall_ms: int) -> None: ...
    def end_step(self, examples_end: int, step: int) -> tuple[int, int, int, int]: ...
    def reach(self) -> None: ...
    @property
    def advanced_ms(self) -> int | None: ...
    @property
    def closed_ms(self) -> int | None: ...
    # Recovery of a state that is older than the log: `facts` are those of `facts_after`; `settle_some` says whether more are left.
    def begin_recovery(self, reached_ms: int, newest_ms: Sequence[int | None]) -> None: ...
    def adopt(self, facts: Mapping[str, Mapping[int, int]]) -> None: ...
    def settle_some(self, num: int) -> bool: ...
    def recover(self, topic: int, offsets: list[int], values: list[bytes], wall_ms: int, judge: Callable[[bytes], bytes | str]) -> None: ...
    @property
    def has_changes(self) -> bool: ...
    @property
    def num_requests(self) -> int: ...
    @property
    def num_bytes(self) -> int: ...  # of memory of the requests remembered, about
    @property
    def num_waiting(self) -> int: ...  # candidates
    @property
    def num_early(self) -> int: ...  # actions that wait for their impression
    @property
    def num_emitted(self) -> int: ...  # in this step, with negatives that were sampled away
    # Records read by topic, actions of unused kinds, of values without effect, repeated impressions, valid impressions, actions by kind.
    def take_counts(self) -> tuple[list[int], int, int, int, int, list[int]]: ...
    # Of the range, with the open step, so once a step: requests, impressions, actions; examples labelled, retracted, sampled away; actions
    # without an impression, other actions refused; impressions too late.
    def take_range_counts(self) -> list[int]: ...
    def refused_records(self) -> list[tuple[int, int, bytes, str]]: ...  # topic, offset, value, reason
    def too_late(self) -> list[tuple[int, int, bytes, str]]: ...
    def refused_actions(self) -> list[tuple[str, int, bytes, int]]: ...  # request id, offset, value, `Reason`
    # Report the actions that begin to wait for their impression, and those that wait now if `waiting`: request id, time, value.
    def report_early(self, waiting: bool) -> None: ...
    def early_actions(self) -> list[tuple[str, int, bytes]]: ...  # of this step
    def report_arrived(self) -> None: ...
    def arrived(self) -> list[tuple[int, bytes]]: ...  # offset and impression of each request that is new in this step
    # Of all emissions: offset of the impression, row of the candidate, sample rate, event time at which the labels were known.
    def places_of_emissions(self) -> tuple[Int64Array, Int64Array, npt.NDArray[np.float32], Int64Array]: ...
    # Of all emissions: kind (255: sampled away), whether it is the first of its candidate, labels.
    def emissions(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], npt.NDArray[np.uint64]]: ...
    def written(self) -> JoinedStep: ...
    def counted_columns(self, names: Sequence[str]) -> dict[str, tuple[Int64Array, Int32Array]]: ...  # fids, lengths
    # Blocks to put, by number, and to delete; the store has those in [first, stop) afterwards: the last two.
    def changes(self) -> tuple[list[tuple[int, bytes]], list[int], int, int]: ...
    def clear_step(self) -> None: ...
    def restore_block(self, number: int, value: bytes) -> None: ...  # in the order of their numbers; ValueError for a damaged one
    def restored(self) -> None: ...  # after the last block
