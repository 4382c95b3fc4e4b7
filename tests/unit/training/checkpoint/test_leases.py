"""Leases: a checkpoint is not deleted while a process reads it, and a dead reader holds none for long."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from monolith_py.clock import ManualClock
from monolith_py.config import JobConfig
from monolith_py.errors import CheckpointError
from monolith_py.io.objects import FolderObjects
from monolith_py.training import Checkpoint, CheckpointMeta, CheckpointSaving, CheckpointStore, Part, Retention, Trainer
from monolith_py.training.checkpoint.leases import LEASE_S, STALE_S, Leases

NAME = "step-000000000001"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1_700_000_000_000)


@pytest.fixture
def leases(tmp_path: Path, clock: ManualClock) -> Leases:
    return Leases(FolderObjects(tmp_path), clock)


def dead_reader(folder: Path, clock: ManualClock) -> None:
    """Leave the lease of a reader that is killed while it reads."""
    reading = Leases(FolderObjects(folder), clock).reading(NAME)
    reading.__enter__()
    (lease,) = (folder / "leases" / NAME).iterdir()
    content = lease.read_bytes()
    reading.__exit__(None, None, None)
    lease.parent.mkdir(parents=True, exist_ok=True)
    lease.write_bytes(content)


def test_a_checkpoint_that_is_read_may_not_be_deleted_and_may_be_afterwards(leases: Leases, tmp_path: Path, clock: ManualClock) -> None:
    with Leases(FolderObjects(tmp_path), clock).reading(NAME):
        assert not leases.may_delete(NAME)
        assert leases.held() == {NAME}
        with leases.reading(NAME):  # it was not marked
            pass
        assert leases.may_delete("step-000000000002")
    assert leases.held() == set()
    assert leases.may_delete(NAME)
    leases.forget(NAME)
    leases.forget("step-000000000002")
    assert not (tmp_path / "leases").exists()


def test_a_reader_refuses_a_checkpoint_that_is_being_deleted_until_it_is_unmarked(leases: Leases) -> None:
    assert leases.may_delete(NAME)
    with pytest.raises(CheckpointError, match=f"{NAME}: is being deleted"), leases.reading(NAME):
        pass
    leases.tidy([], [NAME])
    with pytest.raises(CheckpointError), leases.reading(NAME):
        pass
    leases.tidy([NAME], [])
    with leases.reading(NAME):
        pass


def test_leases_of_a_checkpoint_that_is_gone_are_deleted_and_others_stay(leases: Leases, tmp_path: Path, clock: ManualClock) -> None:
    dead_reader(tmp_path, clock)
    leases.tidy([NAME], [])
    assert not leases.may_delete(NAME)
    leases.tidy([], [])
    assert not (tmp_path / "leases").exists()


def test_a_dead_reader_holds_a_checkpoint_for_the_length_of_a_lease(leases: Leases, tmp_path: Path, clock: ManualClock) -> None:
    dead_reader(tmp_path, clock)
    for _ in range(2):
        assert not leases.may_delete(NAME)
        clock.advance(LEASE_S / 2)
    assert leases.may_delete(NAME)


def test_a_wall_clock_that_is_wrong_by_minutes_ends_no_lease(leases: Leases, tmp_path: Path, clock: ManualClock) -> None:
    for skew_s in (-1800, 1800, 8 * 3600):
        with Leases(FolderObjects(tmp_path), ManualClock(clock.now_ms() + 1000 * skew_s)).reading(NAME):
            assert not leases.may_delete(NAME)


def test_a_deleter_that_has_just_started_ends_a_lease_of_long_ago(leases: Leases, tmp_path: Path, clock: ManualClock) -> None:
    dead_reader(tmp_path, clock)
    clock.advance(STALE_S + 1)
    assert leases.may_delete(NAME)


def test_a_folder_that_cannot_be_written_gives_no_lease_and_says_so_once(
    tmp_path: Path, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "leases").write_text("a file, so no folder can be made")
    leases = Leases(FolderObjects(tmp_path), clock)
    for _ in range(3):
        with leases.reading(NAME):
            pass
    assert caplog.text.count("no lease") == 1


def save(store: CheckpointStore, trainer: Trainer, step: int, retention: Retention, clock: ManualClock) -> Checkpoint:
    saving = CheckpointSaving(store, trainer, retention)
    saving.freeze(CheckpointMeta("training", step, 0, 1, 0, 0, {}, 0, clock.now_ms()))
    return saving.wait()


def test_a_reader_as_slow_as_ten_checkpoints_reads_all_of_its_checkpoint(
    make_job: Callable[..., JobConfig], tmp_path: Path, clock: ManualClock
) -> None:
    trainer, store = Trainer(make_job()), CheckpointStore(tmp_path, clock)
    first = save(store, trainer, 1, Retention(1), clock)
    with CheckpointStore(tmp_path, clock).reading(first):
        for step in range(2, 12):
            clock.advance(1.5)
            newest = save(store, trainer, step, Retention(1), clock)
            first.verify(Part.ALL)
        assert Checkpoint.all_in(tmp_path) == [newest, first]
    newest = save(store, trainer, 12, Retention(1), clock)
    assert Checkpoint.all_in(tmp_path) == [newest]


def test_young_checkpoints_are_kept_whatever_their_number(make_job: Callable[..., JobConfig], tmp_path: Path, clock: ManualClock) -> None:
    trainer, store = Trainer(make_job()), CheckpointStore(tmp_path, clock)
    for step in range(1, 6):
        save(store, trainer, step, Retention(1, age_s=35), clock)
        clock.advance(10)
    save(store, trainer, 6, Retention(1, age_s=35), clock)
    assert [one.meta.step for one in Checkpoint.all_in(tmp_path)] == [6, 5, 4, 3]


def test_readers_that_come_at_any_moment_see_whole_checkpoints_alone(make_job: Callable[..., JobConfig], tmp_path: Path) -> None:
    clock = ManualClock()
    trainer, store = Trainer(make_job()), CheckpointStore(tmp_path, clock)
    save(store, trainer, 1, Retention(1), clock)
    failures: list[str] = []
    counts = [0, 0]
    ends = threading.Event()

    def read() -> None:
        own = CheckpointStore(tmp_path, clock)
        while not ends.is_set():
            for one in own.all()[:1]:
                entered = False
                try:
                    with own.reading(one):
                        entered = one.path.exists()
                        if entered:  # nobody deletes it from here on
                            one.verify(Part.ALL)
                            counts[0] += 1
                except CheckpointError as error:
                    counts[1] += 1
                    if entered:
                        failures.append(str(error))

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for step in range(2, 16):
        save(store, trainer, step, Retention(1), clock)
    ends.set()
    for reader in readers:
        reader.join()
    assert not failures and counts[0] > 0
