"""A genuine Redis that stands still, is failed over, or forgets: requests are answered, and every example comes once."""

from __future__ import annotations

import itertools
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from sound_stream import GAP_MS, LEAD, SoundStream
from surroundings import WAIT_S, Deployment, RedisServer, now_ms, wait_until

from monolith_py.errors import RankFailed
from monolith_py.io.codec import decode_impression
from monolith_serving.client import RankClient

NUM_REQUESTS = 150
NUM_CALLS = 20
# Deadline while Redis stands still: calls that wait for it take half of this.
STILL_S = 6.0
# Refusals that a caller understands.
REFUSALS = {"UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"}


@pytest.mark.needs_redis
def test_requests_are_answered_while_redis_stands_still_and_every_example_comes_once(
    deploy: Callable[..., Deployment], start_redis: Callable[..., RedisServer]
) -> None:
    server = start_redis()
    drill = deploy(kv={"url": server.url})
    drill.run("train", "--stop-at-end")
    stream = SoundStream(drill, now_ms() - (2 * NUM_REQUESTS + LEAD + 100) * GAP_MS)
    replica, joiner = drill.start("serve"), drill.start("join")
    children = [replica, joiner]
    wait_until(lambda: (drill.folder / "port").exists(), children)
    stream.feed(NUM_REQUESTS + LEAD, *children)
    with RankClient(drill.address) as client:
        assert call_all(client, "before", 0, stream.now_ms) == {"OK": NUM_CALLS}
        # The replica appends after it has answered; the stream's event time goes on by more than the window at once.
        wait_until(lambda: {f"before-{n}" for n in range(NUM_CALLS)} <= served_of(drill).keys(), children)
        server.process.send_signal(signal.SIGSTOP)
        stream.append(NUM_REQUESTS)
        codes = call_all(client, "during", 1000, stream.now_ms, STILL_S)
        assert codes["OK"] and codes.keys() <= {"OK"} | REFUSALS
        check_health(drill)
        assert all(child.is_running for child in children)
        server.process.send_signal(signal.SIGCONT)
        # A call that waits for the store at this moment may be answered without features, and has no impression then.
        turns = itertools.count()
        wait_until(
            lambda: (
                call_all(client, f"again-{next(turns)}", 3000, stream.now_ms) and any(one.startswith("again-") for one in served_of(drill))
            )
        )
        assert call_all(client, "after", 2000, stream.now_ms) == {"OK": NUM_CALLS}
    stream.feed(0, *children)
    replica.stop()
    joiner.stop()
    stream.end()
    drill.run("join", "--stop-at-end")
    found = drill.examples()
    assert {example: count for example, count in found.items() if example[0].startswith("r")} == stream.expected
    served = served_of(drill)
    assert {f"before-{n}" for n in range(NUM_CALLS)} | {f"after-{n}" for n in range(NUM_CALLS)} <= served.keys()
    assert set(served.values()) == {1}
    assert Counter(example[0] for example in found if example[2] == 0) == Counter(dict.fromkeys(served, 2))
    assert set(found.values()) == {1}


def served_of(drill: Deployment) -> Counter[str]:
    """Return how many impressions each request has in the log."""
    return Counter(decode_impression(record.value).request_id for record in drill.records(drill.topics.impressions))


def call_all(client: RankClient, name: str, first_user: int, time_ms: int, timeout_s: float = WAIT_S) -> Counter[str]:
    """Rank for users that no cache knows, all at the same time and event time; return how often each status came."""
    futures = [
        client.rank_async(first_user + n, [1, 2], request_id=f"{name}-{n}", time_ms=time_ms, timeout_s=timeout_s) for n in range(NUM_CALLS)
    ]
    codes: Counter[str] = Counter()
    for future in futures:
        error = future.exception(WAIT_S)
        assert error is None or isinstance(error, RankFailed), error
        codes["OK" if error is None else error.code] += 1
    return codes


def check_health(drill: Deployment) -> None:
    with grpc.insecure_channel(drill.address) as channel:
        request = health_pb2.HealthCheckRequest(service="monolith.v1.Ranking")
        status = health_pb2_grpc.HealthStub(channel).Check(request, timeout=WAIT_S).status
    assert status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.needs_redis
def test_a_joiner_follows_redis_through_a_failover(
    deploy: Callable[..., Deployment], start_redis: Callable[..., RedisServer], tmp_path: Path
) -> None:
    primary, other = start_redis("primary"), start_redis("other")
    other.client.execute_command("REPLICAOF", "127.0.0.1", str(primary.port))
    wait_until(lambda: other.client.info("replication")["master_link_status"] == "up")
    name = tmp_path / "redis"  # as a name service gives the address of the present primary
    name.symlink_to(primary.socket)
    drill = deploy(kv={"url": f"unix://{name}?db=0"})
    stream = SoundStream(drill, now_ms() - (2 * NUM_REQUESTS + LEAD + 100) * GAP_MS)
    joiner = drill.start("join")
    stream.feed(NUM_REQUESTS + LEAD, joiner)
    # The primary waits for its replica, then becomes one and refuses writes with READONLY.
    primary.client.execute_command("FAILOVER", "TO", "127.0.0.1", str(other.port))
    wait_until(lambda: other.client.info("replication")["role"] == "master")
    stream.append(NUM_REQUESTS)
    wait_until(lambda: "read only" in joiner.said(), [joiner])
    name.unlink()
    name.symlink_to(other.socket)
    stream.feed(0, joiner)
    joiner.stop()
    stream.end()
    drill.run("join", "--stop-at-end")
    assert drill.examples() == stream.expected


@pytest.mark.needs_redis
def test_a_failover_that_loses_acknowledged_writes_costs_no_example(
    deploy: Callable[..., Deployment], start_redis: Callable[..., RedisServer], tmp_path: Path
) -> None:
    primary, other = start_redis("primary"), start_redis("other")
    other.client.execute_command("REPLICAOF", "127.0.0.1", str(primary.port))
    wait_until(lambda: other.client.info("replication")["master_link_status"] == "up")
    name = tmp_path / "redis"
    name.symlink_to(primary.socket)
    drill = deploy(kv={"url": f"unix://{name}?db=0"})
    stream = SoundStream(drill, now_ms() - (3 * NUM_REQUESTS + LEAD + 100) * GAP_MS)
    joiner = drill.start("join")
    stream.feed(NUM_REQUESTS + LEAD, joiner)
    # Writes from here on are lost: clicks of waiting requests, and requests.
    other.client.execute_command("REPLICAOF", "NO", "ONE")
    stream.feed(NUM_REQUESTS, joiner)
    name.unlink()
    name.symlink_to(other.socket)
    primary.process.kill()
    # The joiner drops its partitions, takes them again, and reads again what the store has lost.
    stream.feed(NUM_REQUESTS, joiner)
    assert "the store has lost it" in joiner.said() and "Traceback" not in joiner.said(), joiner.said()[-3000:]
    joiner.stop()
    stream.end()
    drill.run("join", "--stop-at-end")
    assert drill.examples() == stream.expected


@pytest.mark.needs_redis
def test_a_redis_that_evicts_is_refused_at_the_start(deploy: Callable[..., Deployment], start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis("evicts", "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")
    drill = deploy(kv={"url": server.url})
    stream = SoundStream(drill, now_ms() - 1000 * GAP_MS)
    stream.append(NUM_REQUESTS)
    stream.end()
    joiner = drill.start("join")
    joiner.must_refuse("ConfigError")
    assert "noeviction" in joiner.said()
    assert drill.examples() == {}
    server.client.config_set("maxmemory-policy", "noeviction")
    drill.run("join", "--stop-at-end")
    assert drill.examples() == stream.expected
