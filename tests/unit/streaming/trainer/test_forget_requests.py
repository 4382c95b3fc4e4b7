"""Requests to forget rows: gone from trainer, replicas and checkpoints, and not learnt again from events before, whatever restarts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monolith_py.clock import ManualClock
from monolith_py.config import JobConfig
from monolith_py.data.columns import FeatureColumns, SparseColumn
from monolith_py.data.examples import ExampleBatch
from monolith_py.data.forgetting import ForgetRequest, ForgottenFids
from monolith_py.errors import TopicMissing
from monolith_py.io.codec import encode_examples
from monolith_py.io.log.forget_requests import append_forget_requests
from monolith_py.io.log.topics import Topics, create_topics
from monolith_py.sync import decode_delta
from monolith_py.table import EmbeddingTable
from monolith_py.training import Checkpoint
from monolith_streaming.trainer.loop import OnlineTraining
from monolith_streaming.trainer.start import StartOptions

World = Any
Make = Callable[..., JobConfig]
Examples = Callable[..., ExampleBatch]
NOW_MS = 1_700_000_000_000


@pytest.fixture
def log(world: World) -> Any:
    return world.MemoryLog()


def append(log: Any, examples: ExampleBatch) -> None:
    log.append("examples", [encode_examples(examples)], time_ms=int(examples.times_ms[-1]))


def forget(log: Any, *fids: int, time_ms: int = 10_000, feature: str = "item") -> None:
    append_forget_requests(log, "forget_requests", feature, fids, time_ms)


def train(job: JobConfig, log: Any, now_ms: int = NOW_MS, options: StartOptions | None = None) -> OnlineTraining:
    training = OnlineTraining(job, log, ManualClock(now_ms), lambda: False, options or StartOptions())
    training.run(stop_at_end=True)
    return training


def fids_of(training: OnlineTraining) -> list[int]:
    return training.trainer.bags.tables["item"].fids().tolist()


def replica_of(log: Any) -> dict[int, bytes]:
    """Return the rows of a replica that has read all updates."""
    rows: dict[int, bytes] = {}
    for record in log.read("updates", 0, 0, 10_000):
        delta = decode_delta(record.value)
        if delta.table == "item":
            rows = {fid: row for fid, row in rows.items() if fid not in delta.evicted}
            rows |= {fid: bytes(row) for fid, row in zip(delta.fids.tolist(), delta.rows, strict=True)}
    return rows


def test_a_forgotten_fid_is_gone_from_trainer_replicas_and_the_next_checkpoint(log: Any, make_job: Make, make_examples: Examples) -> None:
    job = make_job()
    create_topics(log, job.log)
    append(log, make_examples(1, 2, 3))
    assert fids_of(train(job, log)) == [1, 2, 3]
    forget(log, 2, 77)
    assert fids_of(train(job, log, NOW_MS + 1_000)) == [1, 3]
    assert sorted(replica_of(log)) == [1, 3]
    newest = Checkpoint.newest(Path(job.trainer.checkpoint_dir))
    assert newest is not None
    assert EmbeddingTable.restore(newest.table("item")).fids().tolist() == [1, 3]
    assert newest.meta.forget_offset == 1


def test_examples_of_impressions_before_the_request_are_learnt_without_the_fid(log: Any, make_job: Make, make_examples: Examples) -> None:
    job = make_job()
    create_topics(log, job.log)
    forget(log, 2, time_ms=5_000)
    append(log, make_examples(1, 2, 3, time_ms=5_000))
    training = train(job, log)
    assert (fids_of(training), training.trainer.num_examples) == ([1, 3], 3)


def test_a_fid_that_comes_back_after_the_request_starts_anew(log: Any, make_job: Make, make_examples: Examples) -> None:
    job = make_job()
    create_topics(log, job.log)
    append(log, make_examples(1, 2, time_ms=1_000))
    train(job, log)
    forget(log, 2, time_ms=5_000)
    train(job, log, NOW_MS + 1_000)
    append(log, make_examples(2, time_ms=5_001))
    training = train(job, log, NOW_MS + 2_000)
    assert fids_of(training) == [1, 2]
    assert training.trainer.bags.tables["item"].read([2]).counts.tolist() == [1]


def test_a_request_is_carried_out_while_the_trainer_runs(log: Any, make_job: Make, make_examples: Examples) -> None:
    job, clock = make_job(), ManualClock(NOW_MS)
    create_topics(log, job.log)
    training = OnlineTraining(job, log, clock, lambda: False)
    append(log, make_examples(1, 2))
    training.step()
    forget(log, 1)
    clock.advance(1.0)
    assert not training.step(), "no example is left"
    assert fids_of(training) == [2]
    training.checkpoint()
    newest = Checkpoint.newest(Path(job.trainer.checkpoint_dir))
    assert newest is not None and EmbeddingTable.restore(newest.table("item")).fids().tolist() == [2]
    assert sorted(replica_of(log)) == [2]


@pytest.mark.parametrize("saves_after_request", [False, True])
def test_a_killed_trainer_forgets_again_and_learns_nothing_from_before(
    saves_after_request: bool, log: Any, make_job: Make, make_examples: Examples
) -> None:
    job = make_job()
    create_topics(log, job.log)
    append(log, make_examples(1, 2, time_ms=1_000))
    train(job, log)
    append(log, make_examples(2, 4, time_ms=2_000))  # not yet learnt by the checkpoint
    forget(log, 2, time_ms=5_000)
    killed = OnlineTraining(job, log, ManualClock(NOW_MS + 1_000), lambda: False)
    killed.step()
    assert fids_of(killed) == [1, 4]
    if saves_after_request:
        killed.checkpoint()
    again = train(job, log, NOW_MS + 2_000)
    assert fids_of(again) == [1, 4]
    assert sorted(replica_of(log)) == [1, 4]


def test_a_request_is_carried_out_once(log: Any, make_job: Make, make_examples: Examples) -> None:
    job = make_job()
    create_topics(log, job.log)
    append(log, make_examples(1, 2, time_ms=1_000))
    train(job, log)
    forget(log, 2, time_ms=5_000)
    append(log, make_examples(2, time_ms=6_000))
    train(job, log, NOW_MS + 1_000)
    append(log, make_examples(2, time_ms=7_000))
    training = train(job, log, NOW_MS + 2_000)
    assert training.trainer.bags.tables["item"].read([2]).counts.tolist() == [2], "the row learnt since stays"


def test_a_new_model_learns_nothing_of_forgotten_fids(log: Any, make_job: Make, make_examples: Examples, tmp_path: Path) -> None:
    job = make_job()
    create_topics(log, job.log)
    append(log, make_examples(1, 2, time_ms=1_000))
    train(job, log)
    forget(log, 2, time_ms=5_000)
    other = make_job(checkpoint_dir=f"{tmp_path}/other")
    assert fids_of(train(other, log, NOW_MS + 1_000, StartOptions(fresh=True))) == [1]


def test_a_log_of_before_has_no_requests_and_gets_the_topic_with_the_first(log: Any, make_job: Make, make_examples: Examples) -> None:
    job = make_job()
    create_topics(log, job.log)
    del log.records["forget_requests"]
    append(log, make_examples(1, 2))
    training = train(job, log)
    with pytest.raises(TopicMissing):
        log.num_partitions(Topics.of(job.log).forget_requests)
    assert fids_of(training) == [1, 2]
    forget(log, 1)
    assert fids_of(train(job, log, NOW_MS + 1_000)) == [2]


def test_broken_requests_and_those_of_other_features_are_passed_over(
    log: Any, make_job: Make, make_examples: Examples, caplog: pytest.LogCaptureFixture
) -> None:
    job = make_job()
    create_topics(log, job.log)
    append(log, make_examples(1, 2))
    log.append("forget_requests", [b"\xff\xff"], time_ms=0)
    forget(log, 1, feature="shop")
    forget(log, 2)
    assert fids_of(train(job, log)) == [1]
    assert "offset 0: no request to forget" in caplog.text and "feature shop is not of this job" in caplog.text


def batch(times_ms: list[int], *bags: tuple[int, ...]) -> ExampleBatch:
    num = len(times_ms)
    fids = np.array([fid for bag in bags for fid in bag], np.int64)
    column = SparseColumn(fids, np.array([len(bag) for bag in bags], np.int32))
    other = SparseColumn(np.arange(num), np.ones(num, np.int32))
    return ExampleBatch(
        tuple(f"r{row}" for row in range(num)),
        np.arange(num),
        np.array(times_ms, np.int64),
        np.zeros(num, np.uint8),
        np.ones(num, np.float32),
        {"click": np.zeros(num, np.float32)},
        FeatureColumns(num, {"tags": column, "item": other}),
    )


def test_only_forgotten_fids_of_old_rows_are_stripped() -> None:
    forgotten = ForgottenFids()
    examples = batch([100, 200, 300], (5, 7, 5), (5,), (7, 9))
    assert forgotten.strip(examples) is examples
    forgotten.add([ForgetRequest("tags", (5, 8), 150), ForgetRequest("tags", (7,), 400), ForgetRequest("tags", (7,), 250)])
    stripped = forgotten.strip(examples)
    column = stripped.features.sparse["tags"]
    assert (column.fids.tolist(), column.lengths.tolist()) == ([5, 9], [0, 1, 1])
    assert stripped.features.sparse["item"].fids.tolist() == [0, 1, 2]
    late = batch([401, 500], (5, 7), (7,))
    assert forgotten.strip(late) is late


def test_a_topic_made_again_is_carried_out_from_its_start(world: World, make_job: Make, make_examples: Examples) -> None:
    job, before, log = make_job(), world.MemoryLog(), world.MemoryLog()
    for one in (before, log):
        create_topics(one, job.log)
    for fid in range(100, 103):
        forget(before, fid)
    append(before, make_examples(1, 2, 3, time_ms=11_000))
    assert fids_of(train(job, before)) == [1, 2, 3]
    forget(log, 2, time_ms=20_000)
    training = train(job, log, NOW_MS + 1_000, StartOptions(accept_hole=True))
    assert fids_of(training) == [1, 3]
    assert training._forgets.offset == 1
