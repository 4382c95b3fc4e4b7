"""Fuzz of the records of each topic: mutated impressions, actions, examples and updates through joiner, trainer and subscriber.

    python tests/fuzz/fuzz_records.py [seconds [records of each topic [seed]]]

Sound records lie between the mutated ones. After each round every record was read, no exception came out, and every sound record had its
effect: its label, its step, its row.
"""

from __future__ import annotations

import logging
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from google.protobuf.message import DecodeError
from mutations import mutated_bytes, mutated_message
from surroundings import NOW_MS, MemoryLog, impression, job_in

from monolith_py.clock import ManualClock
from monolith_py.config import JobConfig
from monolith_py.data.columns import FeatureColumns, SparseColumn
from monolith_py.data.events import Action
from monolith_py.data.examples import ExampleBatch
from monolith_py.data.schema import Schema
from monolith_py.errors import DeltaConflict, DeltaGap, DigestMismatch, ModelReplaced, TableFull, WireError
from monolith_py.io import MemoryKv
from monolith_py.io.codec import decode_examples, encode_action, encode_examples, encode_impression
from monolith_py.io.log.topics import create_topics
from monolith_py.model import build_model
from monolith_py.model.batch import make_batch
from monolith_py.pb import example_pb2 as pb
from monolith_py.pb import parameter_sync_pb2 as sync_pb
from monolith_py.sync import DenseRequester, DenseState, RowEncoding, Subscriber, full_update, pack_rows
from monolith_py.sync.delta import Delta, encode_delta
from monolith_py.sync.delta_checksum import delta_checksum
from monolith_serving.replica.deltas import apply_delta
from monolith_serving.replica.dense_model import DenseModel
from monolith_serving.replica.model_state import ModelState
from monolith_serving.replica.table import ReplicaTable
from monolith_streaming.joiner.loop import JoinerLoop
from monolith_streaming.trainer.loop import OnlineTraining

# Records of one round of a topic; a tenth of as many sound ones lies between them.
ROUND = 250


@dataclass
class Counts:
    """Mutated records by topic."""

    impressions: int = 0
    actions: int = 0
    examples: int = 0
    updates: int = 0


class EventFuzz:
    """Impressions and actions through a joiner."""

    def __init__(self, rng: random.Random, job: JobConfig) -> None:
        self._rng, self._job, self._round = rng, job, 0
        self._log, self._clock = MemoryLog(), ManualClock(NOW_MS)
        create_topics(self._log, job.log)
        self._loop = JoinerLoop(job, self._log, MemoryKv(), self._clock)
        self._loop.start()

    def run(self, num: int) -> None:
        """Join `num` mutated impressions, as many mutated actions, and sound ones between them."""
        rng, log = self._rng, self._log
        self._round += 1
        sound = []
        for number in range(num):
            now_ms = self._clock.now_ms()
            shown = impression(f"m{number % 40}", now_ms, range(rng.randrange(1, 4)))
            acted = Action(f"m{rng.randrange(40)}", rng.randrange(4), rng.choice(["click", "like", "share"]), now_ms)
            other = encode_action(acted)
            log.append("impressions", [self._mutated(encode_impression(shown), pb.Impression(), other)], time_ms=now_ms)
            log.append("actions", [self._mutated(other, pb.Action(), encode_impression(shown))], time_ms=now_ms)
            if number % 10 == 0:
                sound.append(f"sound-{self._round}-{number}")
                log.append("impressions", [encode_impression(impression(sound[-1], now_ms, [1]))], time_ms=now_ms)
                for kind in ("click", "like"):
                    log.append("actions", [encode_action(Action(sound[-1], 1, kind, now_ms + 1))], time_ms=now_ms)
                self._clock.advance(0.05)
                self._loop.step()
        self._clock.advance(200.0)
        ends = self._loop.ends()
        while not self._loop.has_reached(ends):
            self._loop.step()
        self._check(sound)

    def _mutated(self, value: bytes, message: Any, other: bytes) -> bytes:
        if self._rng.random() < 0.5:
            return mutated_bytes(self._rng, value, other)
        message.ParseFromString(value)
        return mutated_message(self._rng, message)

    def _check(self, sound: Sequence[str]) -> None:
        labels = {}
        for record in self._log.records["examples"]:
            batch = decode_examples(record.value)
            clicks, likes = batch.labels["is_click"].tolist(), batch.labels["is_like"].tolist()
            labels |= {request_id: pair for request_id, *pair in zip(batch.request_ids, clicks, likes, strict=True)}
        wrong = [request_id for request_id in sound if labels.get(request_id) != [1.0, 1.0]]
        assert not wrong, f"sound requests without their labels: {wrong[:3]} of {len(wrong)}"
        for topic in self._log.records:
            self._log.trim(topic, 0, self._log.end_offset(topic))


class ExampleFuzz:
    """Examples through a trainer."""

    def __init__(self, rng: random.Random, job: JobConfig) -> None:
        self._rng, self._log, self._clock = rng, MemoryLog(), ManualClock(NOW_MS)
        create_topics(self._log, job.log)
        self._training = OnlineTraining(job, self._log, self._clock, lambda: False)
        self._num_sound = 0

    def run(self, num: int) -> None:
        """Learn from `num` mutated records and sound ones between them."""
        for number in range(num):
            value = encode_examples(self._examples(number))
            self._log.append("examples", [self._mutated(number, value)], time_ms=NOW_MS)
            if number % 10 == 0:
                self._num_sound += 1
                self._log.append("examples", [encode_examples(self._examples(10**6 + self._num_sound, 1))], time_ms=NOW_MS)
        while self._training.step():
            self._clock.advance(0.01)
        table = self._training.trainer.bags.tables["tags"]
        learnt = set(table.export_rows()[0].tolist())
        missing = [item for item in range(10**6 + 1, 10**6 + self._num_sound + 1) if item not in learnt]
        assert not missing, f"sound examples that were not learnt: {missing[:3]} of {len(missing)}"
        assert all(bool(torch.isfinite(value).all()) for value in self._training.trainer.model.parameters())
        for topic in self._log.records:
            if topic != "examples" or self._log.records[topic]:
                self._log.trim(topic, 0, self._log.end_offset(topic))

    def _examples(self, item: int, num: int = 3) -> ExampleBatch:
        ids, ones = np.arange(item, item + num, dtype=np.int64), np.ones(num, np.int32)
        features = FeatureColumns(num, {"tags": SparseColumn(ids, ones)}, {"age": np.ones((num, 2), np.float32)})
        labels = {task: (ids % 2).astype(np.float32) for task in ("is_click", "is_like")}
        kinds, rates = np.zeros(num, np.uint8), np.ones(num, np.float32)
        return ExampleBatch(tuple(f"r{one}" for one in ids), ids, np.full(num, NOW_MS), kinds, rates, labels, features)

    def _mutated(self, number: int, value: bytes) -> bytes:
        rng = self._rng
        if rng.random() < 0.6:
            return mutated_bytes(rng, value, encode_examples(self._examples(number + 7, 1)))
        batch = self._examples(number)
        features, labels = batch.features, dict(batch.labels)
        kind = rng.randrange(6)
        if kind == 0:
            labels.pop("is_like")
        elif kind == 1:
            features = replace(features, dense={"age": np.ones((3, rng.choice([1, 3, 100])), np.float32)})
        elif kind == 2:
            features.dense["age"][rng.randrange(3), 0] = rng.choice([np.nan, np.inf, 3e38, -3e38, 1e30])
        elif kind == 3:
            batch.times_ms[rng.randrange(3)] = rng.choice([1, 2**62, NOW_MS * 1000, NOW_MS // 1000])
        elif kind == 4:
            features.sparse["tags"] = SparseColumn(np.arange(3000) + number, np.full(3, 1000, np.int32))
        else:
            features.sparse["tags"].fids[:] = rng.choice([-(2**63), 2**63 - 1, 0, -1])
        try:
            return encode_examples(replace(batch, features=features, labels=labels))
        except WireError:
            return b""


class UpdateFuzz:
    """Deltas through a subscriber into a replica's state."""

    def __init__(self, rng: random.Random, job: JobConfig) -> None:
        self._rng, self._log, self._schema = rng, MemoryLog(), Schema.of(job)
        create_topics(self._log, job.log)
        table = ReplicaTable(self._schema.features, RowEncoding.FP32, torch.device("cpu"), max_rows=10_000)
        model = build_model(self._schema, job.model, 0).eval()
        self._dense = DenseState.of(model.state_dict())
        self._state = ModelState(table, DenseModel(self._schema, job.model, self._dense), self._dense, (1, 0), 0)
        self._requester = DenseRequester(self._log, "dense_requests", job.name, ManualClock(NOW_MS), 1.0)

    def run(self, num: int) -> None:
        """Apply `num` mutated deltas and sound ones between them."""
        for number in range(num):
            delta = self._delta(number)
            message = sync_pb.Delta.FromString(encode_delta(delta))
            if self._rng.random() < 0.5:
                value = mutated_bytes(self._rng, encode_delta(delta), encode_delta(self._delta(number + 1)))
            else:
                value = _sealed(mutated_message(self._rng, message))
            self._apply(value)
            if number % 10 == 0:
                weights = np.full((1, 4), float(number), np.float32)
                sound = replace(delta, dense=None, table="tags", dim=4, fids=np.array([5]), rows=pack_rows(weights, RowEncoding.FP32))
                assert self._apply(encode_delta(sound)), "a sound delta was refused"
                rows = self._state.table
                features = FeatureColumns(1, {"tags": SparseColumn(np.array([5]), np.ones(1, np.int32))})
                pooled = rows.lookup(make_batch(features, self._schema))
                assert float(pooled.flatten()[-1]) == float(number)
                full = replace(self._delta(0), dense=None)
                assert self._apply(encode_delta(replace(full, dense=full_update(self._dense, RowEncoding.FP32))))
                assert np.isfinite(self._state.predict(make_batch(features, self._schema))).all()

    def _apply(self, value: bytes) -> bool:
        """Apply a delta by a subscriber of its own; return whether it was taken."""
        offset = self._log.append("updates", [value], time_ms=NOW_MS) - 1
        subscriber = Subscriber(self._log, "updates", offset=offset, next_delta=(1, 0))
        taken = False
        try:
            for delta in subscriber.read(0.0):
                self._state = apply_delta(self._state, delta, self._requester)
                taken = True
        except (WireError, DeltaConflict, DeltaGap, DigestMismatch, ModelReplaced, TableFull):
            pass
        self._log.trim("updates", 0, offset + 1)
        return taken

    def _delta(self, number: int) -> Delta:
        head = Delta(1, 0, NOW_MS, NOW_MS)
        if number % 3 == 0:
            return replace(head, dense=full_update(self._dense, RowEncoding.FP32))
        fids = np.arange(number % 50, number % 50 + 4, dtype=np.int64) + 100
        weights = np.full((4, 4), 0.5, np.float32)
        rows, evicted = pack_rows(weights, RowEncoding.FP32), np.array([number % 90 + 100])
        return replace(head, table="tags", dim=4, encoding=RowEncoding.FP32, fids=fids, rows=rows, evicted=evicted)


def _sealed(value: bytes) -> bytes:
    """Return a mutated delta with a right checksum, so that the checks behind it are tried."""
    try:
        message = sync_pb.Delta.FromString(value)
    except DecodeError:
        return value
    message.checksum = delta_checksum(message)
    sealed: bytes = message.SerializeToString()
    return sealed


def fuzz(seed: int, seconds: float, most: int) -> Counts:
    """Run rounds for `seconds`, at most `most` mutated records of each topic; return their numbers."""
    rng, counts, until_s = random.Random(seed), Counts(), time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as folder:
        job = job_in(str(Path(folder) / "checkpoints"))
        events, examples, updates = EventFuzz(rng, job), ExampleFuzz(rng, job), UpdateFuzz(rng, job)
        size = min(ROUND, most)
        while counts.updates < most and time.monotonic() < until_s:
            events.run(size)
            counts.impressions, counts.actions = counts.impressions + size, counts.actions + size
            examples.run(size)
            counts.examples += size
            updates.run(size)
            counts.updates += size
    return counts


def main(seconds: float = 600.0, most: float = 10**9, seed: float = 1) -> None:
    """Fuzz each topic with `most` mutated records, or for `seconds`; print the numbers."""
    logging.disable(logging.CRITICAL)
    print(fuzz(int(seed), seconds, int(most)))


if __name__ == "__main__":
    main(*map(float, sys.argv[1:4]))
