"""Kills at random moments: afterwards the examples are those of a calm run, each once, and the trainer has learnt each once.

MONOLITH_KILL_SEED sets the seed, which is printed; MONOLITH_KILLS the number of kills of the long drills.
"""

from __future__ import annotations

import os
import secrets
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from contextlib import closing

import pytest
from cuttable_proxy import CuttableProxy, ProxiedBroker
from random_kills import RandomFaults, Servers
from sound_stream import GAP_MS, LEAD, SoundStream
from surroundings import Deployment, Example, RedisServer, now_ms

from monolith_py.io.codec import decode_examples
from monolith_py.table import EmbeddingTable

NUM_KILLS = int(os.environ.get("MONOLITH_KILLS", "100"))  # on each kind of job
# Requests for each kill, at most.
REQUESTS_A_KILL = 80


def new_seed() -> int:
    seed = int(os.environ.get("MONOLITH_KILL_SEED", secrets.randbelow(1 << 31)))
    print(f"MONOLITH_KILL_SEED={seed}")
    return seed


def check(drill: Deployment, stream: SoundStream, deploy: Callable[..., Deployment]) -> None:
    """Compare the examples with those of a calm run of the same input, to the last bit, and with what was learnt."""
    found = drill.examples()
    assert found == stream.expected, differences(found, stream.expected)
    assert drill.dead_letters() == []
    calm = deploy("calm")
    for topic in (drill.topics.impressions, drill.topics.actions):
        for record in drill.records(topic):
            name = topic.removeprefix(drill.job.log.topic_prefix)
            calm.log.append(name, [record.value], time_ms=record.time_ms, partition=record.partition)
    calm.run("join", "--stop-at-end")
    assert rows(drill) == rows(calm)
    assert drill.checkpoint().meta.examples_trained == sum(stream.expected.values())
    entries = EmbeddingTable.restore(drill.checkpoint().table("video_id")).entries()
    learnt: Counter[int] = Counter()
    for (_, item_id, _, _), count in stream.expected.items():
        learnt[item_id] += count
    assert dict(zip(entries.fids.tolist(), entries.counts.tolist(), strict=True)) == learnt


def differences(found: Counter[Example], expected: Counter[Example]) -> str:
    more, less = found - expected, expected - found
    return f"{more.total()} too many, {less.total()} missing: {list(more)[:5]}, {list(less)[:5]}"


def rows(drill: Deployment) -> Counter[Hashable]:
    """Return how often each example with all its values is in the log."""
    found: Counter[Hashable] = Counter()
    for record in drill.records(drill.topics.examples):
        batch = decode_examples(record.value)
        for one in (batch.slice(row, row + 1) for row in range(len(batch))):
            values = (one.item_ids, one.times_ms, one.kinds, one.sample_rates, *one.labels.values(), *one.features.dense.values())
            fids = [(name, column.fids.tobytes()) for name, column in sorted(one.features.sparse.items())]
            found[record.partition, one.request_ids, tuple(value.tobytes() for value in values), tuple(fids)] += 1
    return found


@pytest.fixture
def servers(start_redis: Callable[..., RedisServer], broker: ProxiedBroker) -> Iterator[Servers]:
    redis = start_redis()
    with closing(CuttableProxy()) as store_proxy:
        store_proxy.target_port = redis.port
        yield Servers(broker, redis, store_proxy)
        broker.proxy.delay_s = 0.0


def kill_at_random(deploy: Callable[..., Deployment], num_kills: int, servers: Servers | None = None) -> None:
    seed = new_seed()
    stores: dict[str, dict[str, object]] = {}
    if servers is not None:
        stores = {
            "log": {"url": servers.broker.url, "topic_prefix": f"kills-{num_kills}."},
            "kv": {"url": f"redis://127.0.0.1:{servers.store_proxy.port}/0"},
        }
    drill = deploy("kills", trainer={"checkpoint_interval_s": 0.5}, **stores)
    stream = SoundStream(drill, now_ms() - (num_kills * REQUESTS_A_KILL + 2 * LEAD) * GAP_MS)
    faults = RandomFaults(drill, stream, seed, servers)
    faults.run(num_kills)
    print(f"{stream.num_requests} requests, {dict(faults.counts)}")
    check(drill, stream, deploy)


@pytest.mark.slow
def test_processes_killed_at_random_on_sqlite_leave_each_example_once(deploy: Callable[..., Deployment]) -> None:
    kill_at_random(deploy, 8)


@pytest.mark.needs_kafka
@pytest.mark.needs_redis
@pytest.mark.slow
def test_processes_and_servers_killed_at_random_leave_each_example_once(deploy: Callable[..., Deployment], servers: Servers) -> None:
    kill_at_random(deploy, 12, servers)


@pytest.mark.long_drill
@pytest.mark.timeout(3600)
def test_many_random_kills_on_sqlite_leave_each_example_once(deploy: Callable[..., Deployment]) -> None:
    kill_at_random(deploy, NUM_KILLS)


@pytest.mark.needs_kafka
@pytest.mark.needs_redis
@pytest.mark.long_drill
@pytest.mark.timeout(3600)
def test_many_random_kills_on_kafka_and_redis_leave_each_example_once(deploy: Callable[..., Deployment], servers: Servers) -> None:
    kill_at_random(deploy, NUM_KILLS, servers)
