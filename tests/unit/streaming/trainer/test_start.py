"""A new model is started only where none is expected: its first update replaces the model of every replica."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import cast

import pytest

from monolith_py.clock import ManualClock
from monolith_py.config import JobConfig, parse_job
from monolith_py.data.examples import ExampleBatch
from monolith_py.errors import CheckpointError
from monolith_py.io import Log, Writer, open_log
from monolith_py.io.codec import decode_examples, encode_examples
from monolith_py.io.log.topics import create_topics
from monolith_py.sync import decode_delta
from monolith_py.training import Checkpoint
from monolith_streaming.trainer.loop import OnlineTraining
from monolith_streaming.trainer.start import StartOptions

FRESH = StartOptions(fresh=True)


@pytest.fixture
def make_job(tmp_path: Path) -> Callable[..., JobConfig]:
    def make(folder: str = "checkpoints") -> JobConfig:
        return parse_job(
            {
                "name": "online",
                "log": {"url": "sqlite:///unused"},
                "kv": {"url": "memory:"},
                "features": [{"name": "item", "source": "item_id", "dim": 4}],
                "dense_features": [{"name": "age", "source": "item", "dim": 2}],
                "tasks": [{"name": "click", "action": "click"}],
                "model": {"tower": [8], "precision": "fp32"},
                "trainer": {"checkpoint_dir": str(tmp_path / folder), "linger_s": 0.0, "num_threads": 1},
            }
        )

    return make


@pytest.fixture
def log(make_job: Callable[..., JobConfig], make_examples: Callable[..., ExampleBatch], tmp_path: Path) -> Iterator[Log]:
    """A log with three examples."""
    with closing(open_log(f"sqlite:///{tmp_path}/log")) as log:
        create_topics(log, make_job().log)
        log.append("examples", [encode_examples(make_examples(1, 2, 3))], time_ms=1)
        yield log


def train(job: JobConfig, log: Log, options: StartOptions | None = None) -> OnlineTraining:
    training = OnlineTraining(job, log, ManualClock(1_700_000_000_000), lambda: False, options or StartOptions())
    training.run(stop_at_end=True)
    return training


def generations(log: Log) -> list[int]:
    return sorted({decode_delta(record.value).generation for record in log.read("updates", 0, 0, 1000)})


def test_a_mistyped_folder_publishes_nothing(log: Log, make_job: Callable[..., JobConfig], tmp_path: Path) -> None:
    train(make_job(), log)
    end = log.end_offset("updates")
    rule = f"'{tmp_path}/checkpiont' without one although topic 'updates' has {end} updates.*--fresh"
    with pytest.raises(CheckpointError, match=rule):
        train(make_job("checkpiont"), log)
    assert log.end_offset("updates") == end
    assert not Checkpoint.all_in(tmp_path / "checkpiont")
    assert train(make_job(), log).trainer.num_examples == 3


def test_fresh_starts_a_new_model_in_a_generation_of_its_own(log: Log, make_job: Callable[..., JobConfig]) -> None:
    train(make_job(), log)
    assert train(make_job("other"), log, FRESH).trainer.num_examples == 3
    assert generations(log) == [1, 2]


def test_a_log_that_was_never_used_needs_no_fresh(log: Log, make_job: Callable[..., JobConfig]) -> None:
    train(make_job(), log)
    assert generations(log) == [1]


class Killed(Exception):
    pass


class KillingLog:
    """A log that ends its process with the first record of `updates`, before or after it has the record."""

    def __init__(self, log: Log, has_record: bool) -> None:
        self._log, self._has_record = log, has_record

    def __getattr__(self, name: str) -> object:
        return getattr(self._log, name)

    def writer(self, topic: str, partition: int, name: str) -> Writer:
        writer = self._log.writer(topic, partition, name)
        kept = writer.append

        def append(values: Sequence[bytes], *, time_ms: int) -> int:
            if self._has_record:
                kept(values, time_ms=time_ms)
            raise Killed

        writer.append = append  # type: ignore[method-assign]
        return writer


@pytest.mark.parametrize("has_record", [False, True])
def test_a_new_trainer_killed_at_its_first_update_starts_again(log: Log, make_job: Callable[..., JobConfig], has_record: bool) -> None:
    with pytest.raises(Killed):
        train(make_job(), cast(Log, KillingLog(log, has_record)))
    assert log.end_offset("updates") == has_record
    assert train(make_job(), log).trainer.num_examples == 3
    assert max(generations(log)) == 2


def test_updates_that_were_trimmed_away_count_as_updates(log: Log, make_job: Callable[..., JobConfig]) -> None:
    train(make_job(), log)
    log.trim("updates", 0, log.end_offset("updates"))
    with pytest.raises(CheckpointError, match="--fresh"):
        train(make_job("other"), log)


def test_a_new_model_has_a_higher_generation_than_updates_that_were_trimmed_away(log: Log, make_job: Callable[..., JobConfig]) -> None:
    """Replicas at generation 3 skipped those of a generation 1 for ever: streams.md, D10."""
    for _ in range(3):
        train(make_job(), log)
        log.append("examples", [encode_examples(decode_examples(log.read("examples", 0, 0, 1)[0].value))], time_ms=1)
    before, end = max(generations(log)), log.end_offset("updates")
    log.trim("updates", 0, end)
    train(make_job("other"), log, FRESH)
    assert min(decode_delta(record.value).generation for record in log.read("updates", 0, end, 1000)) > before == 3


def test_fresh_beside_a_checkpoint_is_refused(log: Log, make_job: Callable[..., JobConfig]) -> None:
    train(make_job(), log)
    with pytest.raises(CheckpointError, match=r"must hold no checkpoint with --fresh, got .*/checkpoints/step-000000000001: move it away"):
        train(make_job(), log, FRESH)


def test_damaged_checkpoints_alone_start_no_new_model(log: Log, make_job: Callable[..., JobConfig], tmp_path: Path) -> None:
    train(make_job(), log)
    end = log.end_offset("updates")
    for checkpoint in Checkpoint.all_in(tmp_path / "checkpoints"):
        (checkpoint.path / "dense.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"must hold an intact checkpoint, got .* with 2 damaged"):
        train(make_job(), log)
    assert log.end_offset("updates") == end
    shutil.rmtree(tmp_path / "checkpoints")
    train(make_job(), log, FRESH)
