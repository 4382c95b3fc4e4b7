"""Two joiners of one job with a store each, and stores that forget: every example is in the log once, whatever happens."""

from __future__ import annotations

import shutil
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from sound_stream import GAP_MS, LEAD, SoundStream
from surroundings import Child, Deployment, Example, RedisServer, now_ms, wait_until

from monolith_demo.driver.kafka_broker import KafkaBroker

NUM_REQUESTS = 120
NUM_ROUNDS = 5


def stream_of(drill: Deployment) -> SoundStream:
    return SoundStream(drill, now_ms() - ((NUM_ROUNDS + 3) * NUM_REQUESTS + 2 * LEAD + 200) * GAP_MS)


def with_store(drill: Deployment, url: str, name: str) -> str:
    """Return the path of a copy of the job with another store."""
    path = drill.folder / f"{name}.toml"
    path.write_text(drill.config.read_text().replace(drill.job.kv.url, url))
    return str(path)


def take_turns(drill: Deployment, stream: SoundStream, configs: list[str]) -> None:
    """Start a joiner while the one before it runs, again and again; each older one must end with `Fenced`."""
    before: Child | None = None
    for number in range(NUM_ROUNDS):
        joiner = drill.start("join", "--config", configs[number % len(configs)])
        if before is not None:
            stream.append(NUM_REQUESTS // 2)
        # The later one of two that start at the same time would fence the other.
        wait_until(lambda joiner=joiner: "reading on at offsets" in joiner.said(), [joiner])
        if before is not None:
            stream.append(NUM_REQUESTS // 2)
            go_on(stream, before)
            before.must_refuse("Fenced")
        stream.feed(LEAD if before is None else 0, joiner)
        before = joiner
    assert before is not None
    before.stop()
    stream.end()
    drill.run("join", "--config", configs[0], "--stop-at-end")
    assert drill.examples() == stream.expected


def go_on(stream: SoundStream, joiner: Child) -> None:
    """Append requests until the joiner has ended: it is fenced twice, and takes its partitions back in between."""
    wait_until(lambda: not joiner.is_running or stream.append(1), look_s=0.5)


def test_joiners_with_stores_of_their_own_fence_each_other(deploy: Callable[..., Deployment]) -> None:
    """Each store is older than the log whenever its joiner starts: streams.md, A1 to A3."""
    drill = deploy()
    configs = [str(drill.config), with_store(drill, f"sqlite:///{drill.folder}/other.db", "other")]
    take_turns(drill, stream_of(drill), configs)


@pytest.mark.slow
def test_a_store_that_is_emptied_or_put_back_changes_no_example(deploy: Callable[..., Deployment]) -> None:
    """An emptied store doubled every example, one of six steps ago a fifth of them: streams.md, A2 and A3."""
    drill = deploy()
    stream, store, old = stream_of(drill), drill.folder / "kv.db", drill.folder / "old"
    for number in range(NUM_ROUNDS):
        joiner = drill.start("join")
        stream.feed(NUM_REQUESTS + (LEAD if number == 0 else 0), joiner)
        joiner.kill()
        if number == 0:
            copy(store, old)
        elif number % 2 == 0:
            copy(old, drill.folder, store.name)
        else:
            copy(store, old)
            for file in store.parent.glob("kv.db*"):
                file.unlink()
    stream.end()
    drill.run("join", "--stop-at-end")
    assert drill.examples() == stream.expected


def copy(source: Path, target: Path, name: str | None = None) -> None:
    """Copy a SQLite store with its write-ahead log; `source` may be a folder with one."""
    target.mkdir(exist_ok=True)
    files = list(source.parent.glob(f"{source.name}*")) if name is None else list(source.iterdir())
    for file in [*target.glob("kv.db*")]:
        file.unlink()
    for file in files:
        if not file.name.endswith("lock"):
            shutil.copy(file, target / file.name)


@pytest.mark.needs_kafka
@pytest.mark.needs_redis
@pytest.mark.slow
def test_a_redis_with_its_own_default_settings_is_killed_again_and_again(
    deploy: Callable[..., Deployment], start_redis: Callable[..., RedisServer], broker: KafkaBroker
) -> None:
    """771 of 1,051 examples came twice after one kill -9: streams.md, K10. The snapshot is minutes old, or there is none."""
    server = start_redis("rdb", "--appendonly", "no")
    drill = deploy(log={"url": broker.url, "topic_prefix": "rdb."}, kv={"url": server.url})
    stream = stream_of(drill)
    for number in range(NUM_ROUNDS):
        joiner = drill.start("join")
        stream.feed(NUM_REQUESTS + (LEAD if number == 0 else 0), joiner)
        if number == 2:
            server.client.save()
        stream.append(NUM_REQUESTS // 2)
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
        server.start()
        stream.append(NUM_REQUESTS // 2)
        if number < 2:  # there is no snapshot
            wait_until(lambda joiner=joiner: "or the store has lost it" in joiner.said(), [joiner])
        joiner.kill()
    stream.end()
    drill.run("join", "--stop-at-end")
    assert drill.examples() == stream.expected


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("kafka", marks=[pytest.mark.needs_kafka, pytest.mark.slow])])
def test_a_joiner_that_starts_after_a_trim_appends_nothing_again(
    kind: str, deploy: Callable[..., Deployment], request: pytest.FixtureRequest
) -> None:
    """255 of 255 examples were learnt twice: streams.md, A4 and K17."""
    log = {} if kind == "sqlite" else {"url": request.getfixturevalue("broker").url, "topic_prefix": "trim."}
    drill = deploy(log=log)
    stream, trimmed = stream_of(drill), Counter[Example]()
    for _ in range(3):
        joiner, goal = drill.start("join"), drill.num_records(drill.topics.examples) + 3
        stream.append(NUM_REQUESTS + LEAD)
        wait_until(lambda goal=goal: drill.num_records(drill.topics.examples) >= goal, [joiner])
        joiner.stop()
        trimmed += drill.examples()
        for partition in range(2):
            drill.log.trim(drill.topics.examples, partition, drill.log.end_offset(drill.topics.examples, partition))
    stream.end()
    drill.run("join", "--stop-at-end")
    assert trimmed + drill.examples() == stream.expected
