"""Doubles of the sync tests: a table and a replica made of dicts, a log that refuses appends, and dense parameters as tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from monolith_py.errors import LogError
from monolith_py.io import Log, Record, SqliteLog
from monolith_py.sync import Delta, unpack_rows
from monolith_py.table import EncodedDelta


class DictTable:
    """Rows in a dict; a touched fid is drained again until a drain with it is acknowledged."""

    encoding = "fp32"

    def __init__(self, dim: int = 4) -> None:
        self.dim = dim
        self.rows: dict[int, np.ndarray] = {}
        self.unacknowledged: dict[int, int] = {}  # fid -> ticket that will cover it
        self.ticket = 0

    def put(self, fid: int, value: float) -> None:
        self.rows[fid] = np.full(self.dim, value, np.float32)
        self.unacknowledged[fid] = self.ticket + 1

    def evict(self, fid: int) -> None:
        if self.rows.pop(fid, None) is not None:
            self.unacknowledged[fid] = self.ticket + 1

    def drain_encoded(self, consumer: str) -> EncodedDelta:
        self.ticket += 1
        fids = sorted(fid for fid in self.unacknowledged if fid in self.rows)
        weights = np.array([self.rows[fid] for fid in fids], np.float32).reshape(len(fids), self.dim)
        evicted = sorted(fid for fid in self.unacknowledged if fid not in self.rows)
        rows = weights.view(np.uint8).reshape(len(fids), 4 * self.dim)
        return EncodedDelta(self.ticket, np.array(fids, np.int64), rows, np.array(evicted, np.int64))

    def touch(self, consumer: str, fids: np.ndarray) -> None:
        self.unacknowledged |= dict.fromkeys(fids.tolist(), self.ticket + 1)

    def ack(self, consumer: str, ticket: int) -> None:
        self.unacknowledged = {fid: covered for fid, covered in self.unacknowledged.items() if covered > ticket}


class DictReplica:
    """Rows in dicts, changed by deltas; keeps the deltas."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[int, np.ndarray]] = {}
        self.deltas: list[Delta] = []

    def apply(self, delta: Delta) -> None:
        self.deltas.append(delta)
        rows = self.rows.setdefault(delta.table, {})
        for fid in delta.evicted.tolist():
            rows.pop(fid, None)
        if len(delta.fids):
            rows.update(zip(delta.fids.tolist(), unpack_rows(delta.rows, delta.dim, delta.encoding), strict=True))


class FailingLog:
    """A log that refuses the next appends as planned; each plan is the share of the values written all the same."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self.plans: list[float] = []

    def append(self, topic: str, values: Sequence[bytes], *, time_ms: int, partition: int = 0) -> int:
        if not self.plans:
            return self._log.append(topic, values, time_ms=time_ms, partition=partition)
        written = round(self.plans.pop(0) * len(values))
        self._log.append(topic, values[:written], time_ms=time_ms, partition=partition)
        raise LogError("refused as planned")

    def writer(self, topic: str, partition: int, name: str) -> FailingWriter:
        self._log.writer(topic, partition, name)
        return FailingWriter(self, topic)

    def read(self, topic: str, partition: int, offset: int, max_records: int, timeout_s: float = 0.0) -> list[Record]:
        return self._log.read(topic, partition, offset, max_records, timeout_s)

    def create_topic(self, topic: str, num_partitions: int = 1) -> None:
        self._log.create_topic(topic, num_partitions)

    def num_partitions(self, topic: str) -> int:
        return self._log.num_partitions(topic)

    def start_offset(self, topic: str, partition: int = 0) -> int:
        return self._log.start_offset(topic, partition)

    def end_offset(self, topic: str, partition: int = 0) -> int:
        return self._log.end_offset(topic, partition)

    def offset_at(self, topic: str, partition: int, time_ms: int) -> int:
        return self._log.offset_at(topic, partition, time_ms)

    def trim(self, topic: str, partition: int, before_offset: int) -> None:
        self._log.trim(topic, partition, before_offset)

    def close(self) -> None:
        self._log.close()


class FailingWriter:
    """The writer of a log that refuses the next appends as planned."""

    def __init__(self, log: FailingLog, topic: str) -> None:
        self._log, self._topic = log, topic

    def append(self, values: Sequence[bytes], *, time_ms: int) -> int:
        return self._log.append(self._topic, values, time_ms=time_ms)

    def close(self) -> None:
        pass


class Layer:
    """A sparse layer as a set of (block, column), each with a row of weights."""

    def __init__(self, seed: int, blocks: int, columns: int, height: int, density: float) -> None:
        self.generator = np.random.default_rng(seed)
        self.blocks, self.columns, self.height = blocks, columns, height
        self.topology_version = 0
        self.live = {atom for atom in np.ndindex(blocks, columns) if self.generator.random() < density}
        self.learn()

    def learn(self) -> None:
        self.values = self.generator.normal(size=(self.blocks, self.columns, self.height)).astype(np.float32)
        self.bias = self.generator.normal(size=self.blocks * self.height).astype(np.float32)

    def swap(self, num_removed: int, num_added: int) -> None:
        """Remove and add atoms, fewer if there are not enough; the counts may differ, as in a ramp."""
        live = sorted(self.live)
        dead = [atom for atom in np.ndindex(self.blocks, self.columns) if atom not in self.live]
        self.live -= {live[index] for index in self.generator.permutation(len(live))[:num_removed]}
        self.live |= {dead[index] for index in self.generator.permutation(len(dead))[:num_added]}
        self.topology_version += 1

    def tensors(self, prefix: str) -> dict[str, Tensor]:
        live = sorted(self.live)
        counts = [sum(block == number for block, _ in live) for number in range(self.blocks)]
        values = np.array([self.values[atom] for atom in live], np.float32).reshape(len(live), self.height)
        return {
            f"{prefix}values": torch.from_numpy(values),
            f"{prefix}bounds": torch.tensor([0, *np.cumsum(counts)], dtype=torch.int32),
            f"{prefix}columns": torch.tensor([column for _, column in live], dtype=torch.int32),
            f"{prefix}bias": torch.from_numpy(self.bias.copy()),
            f"{prefix}topology_version": torch.tensor(self.topology_version),
        }


class Towers:
    """Two sparse layers, one of each atom height, and a dense layer."""

    def __init__(self, seed: int = 0, density: float = 0.3) -> None:
        self.layers = {"tower.layers.0.": Layer(seed, 3, 20, 16, density), "tower.layers.1.": Layer(seed + 1, 8, 6, 1, density)}
        self.head = torch.zeros(2, 8)

    def learn(self) -> None:
        for layer in self.layers.values():
            layer.learn()
        self.head = self.head + 1.0

    def swap(self, num_removed: int = 2, num_added: int = 2, layer: int = 0) -> None:
        self.layers[f"tower.layers.{layer}."].swap(num_removed, num_added)

    def tensors(self) -> dict[str, Tensor]:
        sparse = {name: tensor for prefix, layer in self.layers.items() for name, tensor in layer.tensors(prefix).items()}
        return {"head.weight": self.head.clone(), **sparse}


def assert_same_tensors(left: Mapping[str, npt.ArrayLike], right: Mapping[str, npt.ArrayLike]) -> None:
    """Assert that names, dtypes, shapes and bits are the same."""
    assert sorted(left) == sorted(right)
    for name in left:
        one, other = np.asarray(left[name]), np.asarray(right[name])
        assert (one.dtype, one.shape) == (other.dtype, other.shape), name
        assert one.tobytes() == other.tobytes(), name


@pytest.fixture
def make_table() -> Callable[..., DictTable]:
    return DictTable


@pytest.fixture(scope="session")
def make_towers() -> Callable[..., Towers]:
    return Towers


@pytest.fixture(scope="session")
def same_tensors() -> Callable[[Mapping[str, npt.ArrayLike], Mapping[str, npt.ArrayLike]], None]:
    return assert_same_tensors


@pytest.fixture
def replica() -> DictReplica:
    return DictReplica()


@pytest.fixture
def failing_log(tmp_path: Path):
    log = FailingLog(SqliteLog(tmp_path / "log"))
    log.create_topic("updates")
    log.create_topic("dense_requests")
    yield log
    log.close()
