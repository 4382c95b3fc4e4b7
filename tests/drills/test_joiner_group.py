"""Three joiners of one job share its partitions while some die, stand still, come and go: every example is in the log once."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence

import pytest
from sound_stream import GAP_MS, LEAD, SoundStream
from surroundings import Child, Deployment, RedisServer, now_ms, wait_until

from monolith_demo.driver.kafka_broker import KafkaBroker
from monolith_py.io import Kv, open_kv
from monolith_streaming.joiner.position import StateKeys

NUM_PARTITIONS = 4
NUM_REQUESTS = 120
TIMEOUT_S = 3.0


class Leases:
    """Owners of the partitions, as the store has them."""

    def __init__(self, drill: Deployment, kv: Kv) -> None:
        self._kv, self._keys = kv, StateKeys(drill.job.name, drill.topics.examples)

    def owners(self, num_partitions: int = NUM_PARTITIONS) -> list[str]:
        """Return the process id of the owner of each partition, none where one is free."""
        values = self._kv.get_many([self._keys.owner(number) for number in range(num_partitions)])
        return [value.decode().split(" ")[2] for value in values if value]

    def wait(self, children: Sequence[Child], num_partitions: int = NUM_PARTITIONS) -> None:
        """Wait until these processes own all partitions, each at least one."""
        pids = {str(child.process.pid) for child in children}

        def is_shared() -> bool:
            owners = self.owners(num_partitions)
            return len(owners) == num_partitions and set(owners) == pids

        wait_until(is_shared, children)


def shared_by_three(drill: Deployment, leases: Leases, *, stands_still: bool) -> None:
    """Let joiners of one job be killed, stopped and scaled, in the middle of a stream.

    `stands_still`: one is stopped by a signal, too. Not on SQLite, where it may hold the lock of the whole store.
    """
    stream = SoundStream(drill, now_ms() - (5 * NUM_REQUESTS + 2 * LEAD + 200) * GAP_MS)
    joiners = [drill.start("join") for _ in range(3)]
    leases.wait(joiners)
    stream.feed(NUM_REQUESTS + LEAD, *joiners)
    stream.append(NUM_REQUESTS // 2)
    joiners.pop().kill()
    stream.feed(NUM_REQUESTS // 2, *joiners)
    leases.wait(joiners)
    if stands_still:
        joiners[0].process.send_signal(signal.SIGSTOP)
        stream.feed(NUM_REQUESTS, *joiners)
        leases.wait(joiners[1:])
        joiners[0].process.send_signal(signal.SIGCONT)
        stream.feed(NUM_REQUESTS, *joiners)
        leases.wait(joiners)
    joiners.pop().stop()
    leases.wait(joiners)
    stream.feed(NUM_REQUESTS, *joiners)
    for joiner in joiners:
        joiner.stop()
    assert leases.owners() == []
    stream.end()
    drill.run("join", "--stop-at-end")
    assert drill.examples() == stream.expected
    assert drill.dead_letters() == []


def settings(url: str = "", **joiner: object) -> dict[str, dict[str, object]]:
    log: dict[str, object] = {"partitions": NUM_PARTITIONS}
    return {"log": log | ({"url": url, "topic_prefix": "group."} if url else {}), "joiner": {"session_timeout_s": TIMEOUT_S, **joiner}}


def test_three_joiners_on_sqlite(deploy: Callable[..., Deployment]) -> None:
    drill = deploy(**settings())
    kv = open_kv(drill.job.kv.url)
    shared_by_three(drill, Leases(drill, kv), stands_still=False)
    kv.close()


@pytest.mark.needs_kafka
@pytest.mark.needs_redis
@pytest.mark.slow
def test_three_joiners_on_kafka_and_redis(
    deploy: Callable[..., Deployment], start_redis: Callable[..., RedisServer], broker: KafkaBroker
) -> None:
    drill = deploy(**settings(broker.url), kv={"url": start_redis().url})
    kv = open_kv(drill.job.kv.url)
    shared_by_three(drill, Leases(drill, kv), stands_still=True)
    kv.close()
