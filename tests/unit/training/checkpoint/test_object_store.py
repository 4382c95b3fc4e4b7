"""Checkpoints in an object store: the same as in a folder, and whole at every cut of the connection."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from typer.testing import CliRunner

from monolith_py.cli import app
from monolith_py.clock import ManualClock
from monolith_py.config import JobConfig, load_job
from monolith_py.data.examples import ExampleBatch
from monolith_py.errors import CheckpointError, ConfigError, ObjectError
from monolith_py.io.objects import FolderObjects
from monolith_py.training import (
    ASIDE,
    Checkpoint,
    CheckpointMeta,
    CheckpointSaving,
    CheckpointStore,
    Part,
    Retention,
    Trainer,
    fetched_checkpoint,
    open_checkpoints,
    restore_checkpoint,
)
from monolith_py.training.checkpoint.object_store import ObjectCheckpointStore
from tests.unit.training.checkpoint.cut_objects import CutObjects


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1_700_000_000_000)


@pytest.fixture
def open_store(tmp_path: Path, clock: ManualClock) -> Callable[..., ObjectCheckpointStore]:
    """Return a function that opens the store of a process."""

    def make(process: str, left: int = 1_000_000) -> ObjectCheckpointStore:
        (tmp_path / process).mkdir(exist_ok=True)
        return ObjectCheckpointStore(tmp_path / process, CutObjects(tmp_path / "bucket", left), clock)

    return make


def save(store: CheckpointStore, trainer: Trainer, step: int, num_kept: int = 2) -> Checkpoint:
    saving = CheckpointSaving(store, trainer, Retention(num_kept))
    saving.freeze(CheckpointMeta("training", step, 0, 1, 0, 0, {}, 0, 1_000 * step))
    return saving.wait()


def steps(store: CheckpointStore) -> list[int]:
    return [one.meta.step for one in store.all()]


@pytest.fixture
def trainer(make_job: Callable[..., JobConfig], make_examples: Callable[..., ExampleBatch]) -> Trainer:
    trainer = Trainer(make_job())
    trainer.step(make_examples(0))
    return trainer


def test_another_process_restores_what_a_trainer_saved(
    trainer: Trainer, open_store: Callable[..., ObjectCheckpointStore], make_job: Callable[..., JobConfig]
) -> None:
    save(open_store("trainer"), trainer, 7)
    store, other = open_store("other"), Trainer(make_job())
    newest = store.newest()
    assert newest is not None
    restore_checkpoint(newest, other, "training")
    for name, table in trainer.bags.tables.items():
        assert (table.export_rows()[1] == other.bags.tables[name].export_rows()[1]).all()


def test_a_replica_downloads_no_table(trainer: Trainer, open_store: Callable[..., ObjectCheckpointStore]) -> None:
    save(open_store("trainer"), trainer, 7)
    store = open_store("replica")
    (one,) = store.all()
    store.fetch(one, Part.SERVING)
    one.verify(Part.SERVING)
    assert not one.tables.exists() and one.has_packed(trainer.bags.tables)


def test_old_checkpoints_are_deleted_unless_a_process_reads_them(
    trainer: Trainer, open_store: Callable[..., ObjectCheckpointStore]
) -> None:
    store, reader = open_store("trainer"), open_store("replica")
    save(store, trainer, 1, 1)
    (one,) = reader.all()
    with reader.reading(one):
        for step in (2, 3):
            save(store, trainer, step, 1)
        reader.fetch(one, Part.ALL)
        one.verify()
        assert steps(open_store("other")) == [3, 1]
    save(store, trainer, 4, 1)
    assert steps(reader) == [4]
    assert {key.partition("/")[0] for key in FolderObjects(reader.directory.parent / "bucket").list()} == {"step-000000000004"}


def test_the_checkpoint_before_stays_the_newest_at_every_cut_of_an_upload(
    trainer: Trainer, open_store: Callable[..., ObjectCheckpointStore]
) -> None:
    save(open_store("trainer"), trainer, 1)
    for left in range(1, 30):
        store = open_store("trainer", left)
        with suppress(CheckpointError):
            save(store, trainer, 2)
        other = open_store("other")
        newest = other.newest()
        assert newest is not None
        newest.verify(Part.TRAINING)
        other.fetch(newest, Part.ALL)
        newest.verify(Part.ALL)
        if newest.meta.step == 2:
            break
        assert Checkpoint.all_in(store.directory)[0].meta.step == 1
    else:
        pytest.fail("the upload never ended")
    assert left > len(list(newest.files())) // 2  # the manifest comes last


def test_pruning_that_is_cut_off_leaves_no_half_of_a_checkpoint(trainer: Trainer, open_store: Callable[..., ObjectCheckpointStore]) -> None:
    for step in (1, 2):
        save(open_store("trainer"), trainer, step)
    num_left = len(FolderObjects(open_store("x").directory.parent / "bucket").list())
    for left in range(1, 60):
        store = open_store("trainer", left)
        newest = store.all()[0]
        store.prune(Retention(1), newest)
        other = open_store("other")
        for one in other.all():
            other.fetch(one, Part.ALL)
            one.verify(Part.ALL)
        if store._objects.left > 0:  # type: ignore[attr-defined]
            break
    assert steps(open_store("other")) == [2]
    assert len(FolderObjects(other.directory.parent / "bucket").list()) == num_left // 2


def test_a_checkpoint_put_aside_and_brought_back_is_whole(trainer: Trainer, open_store: Callable[..., ObjectCheckpointStore]) -> None:
    store = open_store("trainer")
    for step in (1, 2):
        save(store, trainer, step)
    (newest, _) = store.all()
    (store.directory / ASIDE).mkdir(exist_ok=True)
    store.move(newest, store.directory / ASIDE / newest.path.name)
    other = open_store("other")
    assert steps(other) == [1]
    again = save(store, trainer, 2)  # the trainer comes as far again: another name
    assert again.path.name == "step-000000000002.0001"
    other.all()
    (aside,) = Checkpoint.all_in(other.directory / ASIDE)
    other.fetch(aside, Part.ALL)
    aside.verify()
    other.move(aside, other.directory / aside.path.name)
    assert [one.path.name for one in open_store("third").all()] == ["step-000000000002.0001", "step-000000000002", "step-000000000001"]


def test_a_copy_that_was_not_published_is_no_checkpoint(trainer: Trainer, open_store: Callable[..., ObjectCheckpointStore]) -> None:
    store = open_store("trainer")
    save(store, trainer, 1)
    save(CheckpointStore(store.directory), trainer, 2)  # killed before the upload
    assert steps(open_store("trainer")) == [1]


def test_a_store_that_is_away_is_not_taken_for_an_empty_or_damaged_one(
    trainer: Trainer, open_store: Callable[..., ObjectCheckpointStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (1, 2):
        save(open_store("trainer"), trainer, step)
    store = open_store("other")
    store.all()

    def away(key: str, path: Path) -> None:
        raise ObjectError(f"{key}: connection lost")

    store._objects.download = away  # type: ignore[method-assign]
    with pytest.raises(ObjectError, match="connection lost"):
        store.newest()


def test_each_process_on_a_machine_has_a_folder_of_its_own(make_job: Callable[..., JobConfig], tmp_path: Path, clock: ManualClock) -> None:
    job = make_job(trainer={"checkpoint_dir": "s3://bucket/shop"}, objects={"endpoint": "http://127.0.0.1:9", "cache_dir": str(tmp_path)})
    first, second = (open_checkpoints(job, "replica", clock) for _ in range(2))
    assert (first.directory.name, second.directory.name) == ("replica-0", "replica-1")
    del first
    assert open_checkpoints(job, "replica", clock).directory.name == "replica-0"
    with pytest.raises(ConfigError, match="url of objects must be"):
        open_checkpoints(make_job(trainer={"checkpoint_dir": "gs://bucket/shop"}), "trainer", clock)


def test_a_checkpoint_of_a_job_is_fetched_by_its_name(make_job: Callable[..., JobConfig], tmp_path: Path, clock: ManualClock) -> None:
    job = make_job(trainer={"checkpoint_dir": str(tmp_path)})
    saved = save(CheckpointStore(tmp_path, clock), Trainer(job), 7)
    with fetched_checkpoint(job, saved.path.name, clock) as path:
        assert path == saved.path
    promoted = CheckpointStore(tmp_path, clock).promote(saved, "stable")
    with fetched_checkpoint(job, "channels/stable/step-000000000007", clock) as path:
        assert path == promoted.path
    with (
        pytest.raises(CheckpointError, match=r"must have a checkpoint 'step-8', got step-000000000007, channels/stable/step-000000000007"),
        fetched_checkpoint(job, "step-8", clock),
    ):
        pass


def test_the_command_line_inspects_a_checkpoint_of_a_job(make_job: Callable[..., JobConfig], tmp_path: Path, clock: ManualClock) -> None:
    document = f"""
name = "training"
log.url = "sqlite:///log"
kv.url = "memory:"
trainer.checkpoint_dir = "{tmp_path}"
features = [{{ name = "item_id", source = "item_id", dim = 8 }}]
tasks = [{{ name = "click", action = "click" }}]
"""
    (tmp_path / "job.toml").write_text(document)
    saved = save(CheckpointStore(tmp_path, clock), Trainer(load_job(tmp_path / "job.toml")), 7)
    arguments = ["inspect", saved.path.name, "--config", str(tmp_path / "job.toml"), "--json"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0 and json.loads(done.output)["checkpoint"]["step"] == 7
    assert CliRunner().invoke(app, ["inspect", "step-8", *arguments[2:]]).exit_code == 1
