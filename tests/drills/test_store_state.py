"""The joiner's state is emptied, rolled back or of another log: it is made again from the log, or refused by name."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from sound_stream import GAP_MS, LEAD, SoundStream
from surroundings import Deployment, now_ms

NUM_REQUESTS = 150


def store_of(drill: Deployment) -> list[Path]:
    """Return the files of the SQLite store."""
    return [path for path in drill.folder.glob("kv.db*") if not path.name.endswith(".lock")]


def replace_store(drill: Deployment, folder: Path | None) -> None:
    """Put the store's files in `folder` in place of the present ones; None empties the store."""
    for path in store_of(drill):
        path.unlink()
    for path in folder.iterdir() if folder else ():
        shutil.copy(path, drill.folder / path.name)


def back_up(drill: Deployment, name: str) -> Path:
    folder = drill.folder / name
    folder.mkdir()
    for path in store_of(drill):
        shutil.copy(path, folder / path.name)
    return folder


@pytest.fixture
def drill(deploy: Callable[..., Deployment]) -> Deployment:
    return deploy()


@pytest.fixture
def stream(drill: Deployment) -> SoundStream:
    return SoundStream(drill, now_ms() - (5 * NUM_REQUESTS + LEAD + 200) * GAP_MS)


def test_an_emptied_or_older_store_makes_no_example_twice(drill: Deployment, stream: SoundStream) -> None:
    joiner = drill.start("join")
    stream.feed(NUM_REQUESTS + LEAD, joiner)
    joiner.stop()
    older = back_up(drill, "older")
    joiner = drill.start("join")
    stream.feed(NUM_REQUESTS, joiner)
    joiner.stop()
    present = back_up(drill, "present")

    for store in (older, None, older):
        replace_store(drill, store)
        joiner = drill.start("join")
        stream.feed(NUM_REQUESTS, joiner)
        joiner.stop()
    # By now this copy is the older one.
    replace_store(drill, present)
    stream.end()
    drill.run("join", "--stop-at-end")
    assert drill.examples() == stream.expected


def test_a_store_of_another_log_is_refused_and_force_reads_the_log_from_its_start(
    drill: Deployment, stream: SoundStream, deploy: Callable[..., Deployment], tmp_path: Path
) -> None:
    stream.append(NUM_REQUESTS)
    stream.end()
    drill.run("join", "--stop-at-end")
    # The same job on topics that were made again.
    again = deploy(kv={"url": drill.job.kv.url}, log={"url": f"sqlite:///{tmp_path}/another_log"}, folder="again")
    anew = SoundStream(again, now_ms() - (NUM_REQUESTS + 200) * GAP_MS, name="anew")
    anew.append(NUM_REQUESTS // 3)
    anew.end()
    again.start("join", "--stop-at-end").must_refuse("StateMismatch")
    assert again.examples() == {}
    again.run("join", "--stop-at-end", "--force")
    assert again.examples() == anew.expected


def test_two_jobs_on_one_store_leave_each_other_alone(drill: Deployment, stream: SoundStream, deploy: Callable[..., Deployment]) -> None:
    other = deploy("other", kv={"url": drill.job.kv.url})
    theirs = SoundStream(other, now_ms() - (NUM_REQUESTS + LEAD + 200) * GAP_MS)
    joiners = [drill.start("join"), other.start("join")]
    for num_requests in (LEAD, NUM_REQUESTS):
        stream.feed(num_requests, *joiners)
        theirs.feed(num_requests, *joiners)
    for joiner in joiners:
        joiner.stop()
    for one in (stream, theirs):
        one.end()
    drill.run("join", "--stop-at-end")
    other.run("join", "--stop-at-end")
    assert drill.examples() == stream.expected
    assert other.examples() == theirs.expected
