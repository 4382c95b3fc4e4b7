"""A disk that is full for a while, under the checkpoints or under the log: learning goes on, and nothing is lost or doubled."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

from sound_stream import GAP_MS, LEAD, SoundStream
from surroundings import Deployment, now_ms, wait_until

from monolith_py.training import Checkpoint

NUM_REQUESTS = 150


def fill(disk: Path) -> Path:
    """Take all space that is left; return the file to delete."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                pass
    return ballast


def test_a_trainer_learns_and_publishes_while_the_disk_of_checkpoints_is_full(deploy: Callable[..., Deployment], small_disk: Path) -> None:
    settings = {"checkpoint_dir": f"{small_disk}/checkpoints", "checkpoint_interval_s": 0.3}
    drill = deploy(trainer=settings, metrics_of="trainer")
    stream = SoundStream(drill, now_ms() - (2 * NUM_REQUESTS + 200) * GAP_MS)
    trainer = drill.start("train")
    stream.append(NUM_REQUESTS)
    drill.run("join", "--stop-at-end")
    half = sum(drill.examples().values())
    wait_until(lambda: examples_saved(drill) == half, [trainer])

    ballast = fill(small_disk)
    num_updates = drill.num_records(drill.topics.updates)
    stream.append(NUM_REQUESTS)
    stream.end()
    drill.run("join", "--stop-at-end")
    whole = sum(drill.examples().values())
    wait_until(lambda: drill.metric("monolith_checkpoint_failures_total") >= 2, [trainer])
    wait_until(lambda: drill.metric("monolith_examples_trained_total") == whole, [trainer])
    wait_until(lambda: drill.num_records(drill.topics.updates) > num_updates, [trainer])
    assert examples_saved(drill) == half

    ballast.unlink()
    wait_until(lambda: examples_saved(drill) == whole, [trainer])
    trainer.kill()
    drill.run("train", "--stop-at-end")
    assert drill.checkpoint().meta.examples_trained == whole


def examples_saved(drill: Deployment) -> int:
    """Return the number of examples in the newest checkpoint, 0 without one."""
    checkpoint = Checkpoint.newest(Path(drill.job.trainer.checkpoint_dir))
    return 0 if checkpoint is None else checkpoint.meta.examples_trained


def test_a_joiner_waits_for_room_in_the_log_and_writes_every_example_once(deploy: Callable[..., Deployment], small_disk: Path) -> None:
    drill = deploy(log={"url": f"sqlite:///{small_disk}/log"}, kv={"url": f"sqlite:///{small_disk}/kv.db"})
    stream = SoundStream(drill, now_ms() - (2 * NUM_REQUESTS + LEAD + 200) * GAP_MS)
    joiner = drill.start("join")
    stream.feed(NUM_REQUESTS + LEAD, joiner)
    joiner.process.send_signal(signal.SIGSTOP)
    stream.append(NUM_REQUESTS)
    stream.end()
    ballast = fill(small_disk)
    joiner.process.send_signal(signal.SIGCONT)
    wait_until(lambda: "next attempt" in joiner.said() or "append failed" in joiner.said(), [joiner])
    ballast.unlink()
    stream.feed(0, joiner)
    joiner.stop()
    drill.run("join", "--stop-at-end")
    assert drill.examples() == stream.expected
    drill.run("train", "--stop-at-end")
    assert drill.checkpoint().meta.examples_trained == sum(stream.expected.values())


def test_a_joiner_that_starts_on_a_full_disk_waits_for_room(deploy: Callable[..., Deployment], small_disk: Path) -> None:
    """It ended with KvError at once."""
    drill = deploy(kv={"url": f"sqlite:///{small_disk}/kv.db"})
    stream = SoundStream(drill, now_ms() - (NUM_REQUESTS + LEAD + 200) * GAP_MS)
    stream.append(NUM_REQUESTS)
    stream.end()
    ballast = fill(small_disk)
    joiner = drill.start("join")
    wait_until(lambda: "next attempt" in joiner.said(), [joiner])
    ballast.unlink()
    stream.feed(0, joiner)
    joiner.stop()
    drill.run("join", "--stop-at-end")
    assert drill.examples() == stream.expected
