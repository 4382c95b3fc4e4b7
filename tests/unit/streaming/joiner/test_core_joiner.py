"""The joiner's core against the state machine in Python: equal results at every step of random streams, also over restarts."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from monolith_py.clock import ManualClock
from monolith_py.config import JobConfig, TaskConfig
from monolith_py.data.columns import FeatureColumns, SparseColumn
from monolith_py.data.events import Action, Impression
from monolith_py.io import MemoryKv
from monolith_py.io.codec import decode_examples, encode_action, encode_impression
from monolith_py.io.codec.canonical import canonical_action, canonical_impression
from monolith_py.io.codec.wire_patterns import WirePatterns
from monolith_py.io.log.topics import Topics
from monolith_py.pb import example_pb2 as pb
from monolith_streaming.joiner.position import Position, Progress, decode_position, encode_position

from .core_joiner import Core
from .reference import Reference

World = Any
NAMES = ["user", "tags", "bag"]
IDS = [f"r{index}" for index in range(14)] + ["a-longer-id-of-a-request-0123456789", "h\u00f6rbuch-\u4e2d"]


class Stream:
    """Random records: sound ones, odd ones, and malformed ones."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self._world, self._rng = world, rng
        self._now_s = 0.0

    def events(self) -> list[tuple[str, bytes, int]]:
        """Return up to 12 records as (name of the topic, value, time)."""
        rng = self._rng
        found = []
        for _ in range(rng.randrange(12)):
            self._now_s += rng.choice([0, 0, 1, 5, 20, 60])
            at_s = self._now_s - rng.choice([0, 0, 0, 3, 9, 15, 200]) + (100_000 if rng.random() < 0.01 else 0)
            if rng.random() < 0.4:
                impression = self._impression(at_s)
                found.append(("impressions", self._twisted(encode_impression(impression), pb.Impression), impression.time_ms))
            else:
                action = self._action(at_s)
                found.append(("actions", self._twisted(encode_action(action), pb.Action), action.time_ms))
        return found

    def _impression(self, at_s: float) -> Impression:
        rng = self._rng
        items = [rng.randrange(1, 6) for _ in range(rng.choice([1, 1, 2, 4]))]
        num = len(items)
        tasks = rng.choice([(), ("is_click",), ("is_click", "is_like"), ("other", "is_like")])
        scores = np.array([[rng.choice([0.0, 0.25, 1.0, 1.5]) for _ in tasks] for _ in items], np.float32).reshape(num, len(tasks))
        fields: dict[str, Any] = {"scores": scores, "task_names": tasks, "model_version": rng.choice(["", "1.1", "2.7"]), "arm": "live"}
        if rng.random() < 0.6:
            lengths = np.array([rng.randrange(3) for _ in items], np.int32)
            columns = {
                "tags": SparseColumn(np.arange(int(lengths.sum())) - 1, lengths),
                "bag": SparseColumn(np.array([rng.randrange(-5, 99) for _ in items]), np.ones(num, np.int32)),
            }
            dense = {"age": np.ones((num, rng.choice([2, 2, 2, 3])), np.float32), "unknown": np.zeros((num, 1), np.float32)}
            names = rng.sample(sorted(columns), rng.randrange(3))
            fields["candidates"] = FeatureColumns(num, {n: columns[n] for n in names}, {n: dense[n] for n in dense if rng.random() < 0.7})
        impression: Impression = self._world.impression(rng.choice(IDS), at_s, items, **fields)
        return impression

    def _action(self, at_s: float) -> Action:
        rng = self._rng
        kind = rng.choice(["click", "click", "like", "end", "all", "other"])
        action: Action = self._world.action(rng.choice(IDS), kind, at_s, rng.randrange(1, 6), rng.choice([1.0, 1.0, 0.0, -1.0, 0.3, 1e9]))
        return action

    def _twisted(self, value: bytes, of: Any) -> bytes:
        """Return `value`, now and then in another form or broken."""
        rng = self._rng
        draw = rng.random()
        if draw < 0.85:
            return value
        message = of.FromString(value)
        if draw < 0.88:
            return value + b"\xf8\x07\x01"  # an unknown field
        if draw < 0.91:
            first = of(request_id="another")
            return bytes(first.SerializeToString()) + value  # a field twice: the last one counts
        if draw < 0.93:
            return value[: rng.randrange(len(value))]
        if draw < 0.95:
            message.time_ms //= 1000
        elif draw < 0.97:
            message.request_id = rng.choice(["", "x" * 513, "\u00e9" * 512])
        elif of is pb.Action:
            message.value = rng.choice([float("nan"), float("inf"), 2.0])
        else:
            message.scores.append(0.5)
        return bytes(message.SerializeToString())


def rates_by_value(rng: random.Random) -> list[dict[str, Any]]:
    """Return rates for shared and candidates' features, in random order; some bags hold several of the values."""
    values = [("user", sum(rng.choice(IDS).encode())), *(("tags", fid) for fid in (-1, 0, 1, 2, 3, 10, 20, 50))]
    return [{"feature": name, "value": fid, "rate": rng.choice([1.0, 0.3, 1e-6])} for name, fid in rng.sample(values, 6)]


def job_of(world: World, rng: random.Random) -> JobConfig:
    emit = rng.choice(["candidate", "request", "window"])
    job: JobConfig = world.job(
        counters={"enabled": True, "keys": ["user"]},
        window_s=rng.choice([1, 40, 100]),
        allowed_lateness_s=rng.choice([0, 50, 1000]),
        emit=emit,
        terminal_actions=[] if emit == "window" else rng.choice([[], ["end"], ["end", "like"]]),
        request_terminal_actions=[] if emit == "window" else rng.choice([[], ["all"]]),
        late=rng.choice(["retract", "drop"]),
        negative_rate=rng.choice([1.0, 0.5, 1e-6]),
        negative_rates=rng.choice([[], [], rates_by_value(rng)]),
        max_records=rng.choice([1, 7, 300]),
        agreeing_records=rng.choice([1, 2, 5]),
    )
    if rng.random() < 0.5:
        return job
    click, like = job.tasks
    number = TaskConfig(name=like.name, action=like.action, kind="regression")
    classes = TaskConfig(name="what", kind="multiclass", classes=("click", "end"))
    tasks = rng.choice(
        [(click, number), (number, click), (click, number, classes), (number, click, number.model_copy(update={"name": "all"}))]
    )
    return job.model_copy(update={"tasks": tasks})


def plain(results: dict[str, Any]) -> dict[str, Any]:
    """Return `results` with the records decoded into plain values, and valid records in canonical form, as the core keeps them."""
    return results | {
        "records": [rows_of(value) for value in results["records"]],
        "refused": [(request_id, offset, canonical_action(value)[0], reason) for request_id, offset, value, reason in results["refused"]],
        "too_late": [(offset, canonical_impression(value, WirePatterns({}))[0]) for offset, value in results["too_late"]],
        "letters": [(*letter[:2], settled(*letter[2:]), letter[3]) for letter in results["letters"]],
    }


def settled(value: bytes, reason: str) -> bytes:
    """Return a refused record, in canonical form if it was refused for being ahead of its stream, as a valid one."""
    if "newest event" not in reason:
        return value
    return canonical_impression(value, WirePatterns({}))[0] if reason.startswith("impression") else canonical_action(value)[0]


def rows_of(value: bytes) -> dict[str, Any]:
    batch = decode_examples(value)
    served = batch.served
    return {
        "ids": list(zip(batch.request_ids, batch.item_ids.tolist(), batch.times_ms.tolist(), batch.kinds.tolist(), strict=True)),
        "rates": batch.sample_rates.tolist(),
        "labels": [(task, labels.tolist()) for task, labels in batch.labels.items()],
        "sparse": [(name, column.fids.tolist(), column.lengths.tolist()) for name, column in batch.features.sparse.items()],
        "dense": [(name, values.tolist()) for name, values in batch.features.dense.items()],
        "served": served
        and (
            [(task, repr(scores.tolist())) for task, scores in served.scores.items()],
            [served.models[code] for code in served.model_codes],
        ),
    }


def test_the_core_gives_what_the_state_machine_gives(world: World) -> None:
    num_examples = num_refused = num_letters = 0
    for seed in range(150):
        results = run_both(world, seed)
        num_examples += sum(len(one["kinds"]) for one in results)
        num_refused += sum(len(one["refused"]) + len(one["too_late"]) for one in results)
        num_letters += sum(len(one["letters"]) for one in results)
    assert num_examples > 2500 and num_refused > 500 and num_letters > 500


def run_both(world: World, seed: int) -> list[dict[str, Any]]:
    """Join one random stream both ways and return the results of the steps, which were equal whatever the bound of the core's memory."""
    rng, max_bytes = random.Random(seed), (1 << 40, 12_000, 0)[seed % 3]
    job = job_of(world, rng)
    log, clock, stream = world.log(job), ManualClock(world.now_ms), Stream(world, rng)
    topics, start = Topics.of(job.log), Position(Progress([0, 0]), 0, tasks=["is_click", "is_like"])
    reference = Reference(job, log, clock, decode_position(encode_position(start)), MemoryKv())
    core = Core(job, log, clock, decode_position(encode_position(start)), {}, max_bytes)
    size, found = rng.choice([1, 3, 256]), []
    for _ in range(rng.randrange(3, 25)):
        for name, value, time_ms in stream.events():
            log.append(getattr(topics, name), [value], time_ms=time_ms)
        clock.advance(rng.choice([0.0, 0.1, 3.0, 30.0, 200.0]))
        for _ in range(rng.randrange(1, 4)):
            assert core.step() == reference.step(), seed
        if rng.random() < 0.6:
            found.append(compare_and_commit(core, reference, size, seed))
        if rng.random() < 0.15:
            found.append(compare_and_commit(core, reference, size, seed))
            reference = Reference(job, log, clock, decode_position(encode_position(reference.position)), reference.kv)
            core = Core(job, log, clock, decode_position(encode_position(core.position)), core.blocks, max_bytes)
    while core.step() == reference.step() != (0, False):
        found.append(compare_and_commit(core, reference, size, seed))
    found.append(compare_and_commit(core, reference, size, seed))
    for _ in reference.joiner.close_all():
        core.partition.core.close_some()
        found.append(compare_and_commit(core, reference, size, seed))
    return found


def compare_and_commit(core: Core, reference: Reference, size: int, seed: int) -> dict[str, Any]:
    results, expected = plain(core.results(size, NAMES)), plain(reference.results(size, NAMES))
    for name in expected:
        assert results[name] == expected[name], (seed, name)
    core.commit()
    reference.commit()
    return expected


@pytest.mark.parametrize("num_candidates", [1, 300])
def test_records_of_the_core_are_cut_at_a_megabyte(world: World, num_candidates: int) -> None:
    job = world.job(max_records=2000)
    log, clock = world.log(job), ManualClock(world.now_ms + 86_400_000)
    position = Position(Progress([0, 0]), 0)
    core = Core(job, log, clock, position, {})
    wide = FeatureColumns(1, {"user": SparseColumn(np.arange(2000), np.array([2000], np.int32))})
    for index in range(3):
        world.append(job, log, world.impression(f"r{index}", 0, range(1, num_candidates + 1), shared=wide))
    core.step()
    while core.partition.core.close_some():
        pass
    records = core.results(256, [])["records"]
    assert sum(len(decode_examples(value)) for value in records) == 3 * num_candidates
    assert all(len(value) <= 1_000_000 for value in records)
