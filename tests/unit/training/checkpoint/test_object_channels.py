"""Channels in an object store: a checkpoint in one is whole whatever the trainer prunes, and at every cut of the connection."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from monolith_py.clock import ManualClock
from monolith_py.config import JobConfig
from monolith_py.data.examples import ExampleBatch
from monolith_py.errors import CheckpointError, ObjectError
from monolith_py.io.objects import FolderObjects, Objects
from monolith_py.training import (
    ASIDE,
    Checkpoint,
    CheckpointMeta,
    CheckpointSaving,
    CheckpointStore,
    Part,
    Retention,
    Trainer,
)
from monolith_py.training.checkpoint.leases import LEASE_S, Leases
from monolith_py.training.checkpoint.object_store import ObjectCheckpointStore
from tests.unit.training.checkpoint.cut_objects import CutObjects

Open = Callable[..., ObjectCheckpointStore]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1_700_000_000_000)


@pytest.fixture
def bucket(tmp_path: Path) -> Path:
    return tmp_path / "bucket"


@pytest.fixture
def open_store(tmp_path: Path, bucket: Path, clock: ManualClock) -> Open:
    """Return a function that opens the store of a process."""

    def make(process: str, objects: Objects | None = None, channel: str | None = None) -> ObjectCheckpointStore:
        (tmp_path / process).mkdir(exist_ok=True)
        return ObjectCheckpointStore(tmp_path / process, objects or FolderObjects(bucket), clock, channel)

    return make


@pytest.fixture
def trainer(make_job: Callable[..., JobConfig], make_examples: Callable[..., ExampleBatch]) -> Trainer:
    trainer = Trainer(make_job())
    trainer.step(make_examples(0))
    return trainer


def save(store: CheckpointStore, trainer: Trainer, step: int, num_kept: int = 2) -> Checkpoint:
    saving = CheckpointSaving(store, trainer, Retention(num_kept))
    saving.freeze(CheckpointMeta("training", step, 0, 1, 0, 0, {}, 0, 1_000 * step))
    return saving.wait()


def promote(store: ObjectCheckpointStore, step: int, channel: str = "stable") -> None:
    store.promote(next(one for one in store.all() if one.meta.step == step), channel)


def in_channel(open_store: Open, channel: str = "stable") -> list[str]:
    """Return the names of the checkpoints in a channel; each must be whole."""
    store = open_store("replica", channel=channel)
    found = store.all()
    for one in found:
        store.fetch(one, Part.ALL)
        one.verify()
    return [one.path.name for one in found]


def stored(bucket: Path) -> set[str]:
    """Return the folders of files in the bucket."""
    return {key.partition("/")[0] for key in FolderObjects(bucket).list() if key.startswith("step-")}


def test_a_promoted_checkpoint_outlives_the_trainers_pruning_and_its_files_go_with_the_channel(trainer, open_store, bucket):
    store = open_store("trainer")
    save(store, trainer, 1)
    promote(open_store("promoter"), 1)
    for step in (2, 3, 4):
        save(store, trainer, step)
    assert [one.meta.step for one in store.all()] == [4, 3]
    assert in_channel(open_store) == ["step-000000000001"]
    promote(open_store("promoter"), 3)
    assert in_channel(open_store) == ["step-000000000003"]
    save(store, trainer, 5)
    assert stored(bucket) == {f"step-{step:012d}" for step in (3, 4, 5)}
    assert not [key for key in FolderObjects(bucket).list() if key.startswith("leases/")]


def test_a_promotion_from_channel_to_channel_and_twice(trainer, open_store, bucket):
    store = open_store("trainer")
    save(store, trainer, 1, 1)
    promote(open_store("promoter"), 1)
    save(store, trainer, 2, 1)
    held = open_store("promoter", channel="stable")
    (one,) = held.all()
    for _ in range(2):
        assert held.promote(one, "canary").path.name == "step-000000000001"
    promote(open_store("promoter"), 2)
    save(store, trainer, 3, 1)
    assert in_channel(open_store, "canary") == ["step-000000000001"] and in_channel(open_store) == ["step-000000000002"]
    assert stored(bucket) == {f"step-{step:012d}" for step in (1, 2, 3)}


def test_a_name_in_a_channel_is_not_written_again(trainer, open_store):
    store = open_store("trainer")
    save(store, trainer, 5, 1)
    promote(open_store("promoter"), 5)
    save(store, trainer, 6, 1)
    again = save(open_store("other"), trainer, 5, 1)  # a trainer that was rolled back comes as far again
    assert again.path.name == "step-000000000005.0001"
    assert in_channel(open_store) == ["step-000000000005"]


def test_a_replica_reads_its_channel_to_the_end_while_another_checkpoint_takes_its_place(trainer, open_store, bucket):
    store, replica = open_store("trainer"), open_store("replica", channel="stable")
    save(store, trainer, 1, 1)
    promote(open_store("promoter"), 1)
    (one,) = replica.all()
    with replica.reading(one):
        save(store, trainer, 2, 1)
        promote(open_store("promoter"), 2)
        save(store, trainer, 3, 1)
        replica.fetch(one, Part.ALL)
        one.verify()
    save(store, trainer, 4, 1)
    assert stored(bucket) == {"step-000000000002", "step-000000000004"}
    assert in_channel(open_store) == ["step-000000000002"]


def test_a_promotion_that_is_cut_off_leaves_the_former_checkpoint_or_both(trainer, open_store, bucket):
    store = open_store("trainer")
    for step in (1, 2):
        save(store, trainer, step)
    promote(open_store("promoter"), 1)
    for left in range(1, 30):
        objects = CutObjects(bucket, left)
        with suppress(ObjectError):
            promote(open_store("promoter", objects), 2)
        save(store, trainer, 2 + left, 2)
        names = in_channel(open_store)
        assert names and set(names) <= {"step-000000000001", "step-000000000002"}
        if objects.left > 0:
            break
    assert names == ["step-000000000002"] and left > 3


class SlowPromoter(FolderObjects):
    """Objects of a promoter that stands still before it writes into the channel."""

    def __init__(self, root: Path, meanwhile: Callable[[], object]) -> None:
        super().__init__(root)
        self._meanwhile = meanwhile

    def write(self, key: str, value: bytes) -> None:
        if key.startswith("channels/"):
            self._meanwhile()
        super().write(key, value)


def test_a_promoter_that_stood_still_while_its_checkpoint_was_deleted_takes_it_back(trainer, open_store, bucket, clock):
    store = open_store("trainer")
    save(store, trainer, 1, 1)

    def prune() -> None:
        for _ in range(2):  # the lease is seen unchanged for its whole length
            save(store, trainer, store.all()[0].meta.step + 1, 1)
            clock.advance(LEASE_S + 1)
        save(store, trainer, 9, 1)

    with pytest.raises(CheckpointError, match=r"must have \d+ bytes in the object store, got none"):
        promote(open_store("promoter", SlowPromoter(bucket, prune)), 1)
    assert in_channel(open_store) == [] and stored(bucket) == {"step-000000000009"}


def test_a_promotion_of_a_checkpoint_that_is_being_deleted_is_refused(trainer, open_store, bucket, clock):
    save(open_store("trainer"), trainer, 1)
    promoter = open_store("promoter")
    (one,) = promoter.all()
    assert Leases(FolderObjects(bucket), clock).may_delete(one.path.name)
    with pytest.raises(CheckpointError, match="is being deleted"):
        promoter.promote(one, "stable")

    def mark() -> None:
        Leases(FolderObjects(bucket), clock).forget(one.path.name)  # its lease had expired
        assert Leases(FolderObjects(bucket), clock).may_delete(one.path.name)

    Leases(FolderObjects(bucket), clock).forget(one.path.name)
    with pytest.raises(CheckpointError, match="is being deleted"):
        open_store("promoter", SlowPromoter(bucket, mark)).promote(one, "stable")
    assert in_channel(open_store) == []


def test_a_checkpoint_that_was_cut_short_is_not_promoted_and_an_older_one_is_chosen(trainer, open_store, bucket, caplog):
    store = open_store("trainer")
    for step in (1, 2):
        save(store, trainer, step)
    (bucket / "step-000000000002" / "dense.safetensors").write_bytes(b"short")
    promoter = open_store("promoter")
    with pytest.raises(CheckpointError, match=r"dense\.safetensors must have \d+ bytes in the object store, got 5 bytes"):
        promote(promoter, 2)
    newest = promoter.newest_whole()
    assert newest is not None and newest.meta.step == 1
    assert not list(newest.tables.glob("*")), "nothing is downloaded"


@pytest.mark.parametrize("is_pruned", [True, False])
def test_a_trainer_goes_on_from_a_channel_which_keeps_its_own(trainer, open_store, bucket, is_pruned):
    store = open_store("trainer")
    save(store, trainer, 1)
    promote(open_store("promoter"), 1)
    if is_pruned:
        save(store, trainer, 2, 1)
    operator = open_store("operator")
    operator.all()
    (held,) = Checkpoint.all_in(operator.directory / "channels" / "stable")
    one = operator.take_aside(held)
    assert one == Checkpoint(operator.directory / (ASIDE if is_pruned else "") / held.path.name)
    if is_pruned:
        operator.move(one, operator.directory / one.path.name)
    other = open_store("other")
    assert "step-000000000001" in [one.path.name for one in other.all()]
    save(store, trainer, 3, 1)
    assert in_channel(open_store) == ["step-000000000001"]
