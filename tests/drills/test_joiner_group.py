"""Three joiners of one job share its partitions while some die, stand still, come and go: every example is in the log once."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable, Sequence

import pytest
from kafka import KafkaAdminClient
from sound_stream import GAP_MS, LEAD, SoundStream
from surroundings import Child, Deployment, Example, RedisServer, now_ms, wait_until

from monolith_demo.driver.kafka_broker import KafkaBroker
from monolith_py.data.events import LetterKind
from monolith_py.io import Kv, open_kv
from monolith_streaming.joiner.position import StateKeys

NUM_PARTITIONS = 4
NUM_REQUESTS = 60
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


def shared_by_three(drill: Deployment, leases: Leases, add_partitions: Callable[[int], None] | None) -> None:
    """Let joiners of one job be killed, stopped and scaled, in the middle of a stream.

    With `add_partitions`, which makes so many of them, one is stopped by a signal as well: on SQLite it may hold the lock of the store.
    """
    stream = SoundStream(drill, now_ms() - (6 * NUM_REQUESTS + 2 * LEAD + 200) * GAP_MS)
    joiners = [drill.start("join") for _ in range(3)]
    leases.wait(joiners)
    stream.feed(NUM_REQUESTS + LEAD, *joiners)
    stream.append(NUM_REQUESTS // 2)
    joiners.pop().kill()
    stream.feed(NUM_REQUESTS // 2, *joiners)
    leases.wait(joiners)
    if add_partitions is not None:
        joiners[0].process.send_signal(signal.SIGSTOP)
        stream.feed(NUM_REQUESTS, *joiners)
        leases.wait(joiners[1:])
        joiners[0].process.send_signal(signal.SIGCONT)
        stream.feed(NUM_REQUESTS, *joiners)
        leases.wait(joiners)
    joiners.pop().stop()
    num_partitions = NUM_PARTITIONS
    if add_partitions is not None:
        num_partitions = stream.num_partitions = NUM_PARTITIONS + 2
        add_partitions(num_partitions)
        stream.append(NUM_REQUESTS)
    leases.wait(joiners, num_partitions)
    stream.feed(NUM_REQUESTS, *joiners)
    for joiner in joiners:
        joiner.stop()
    assert leases.owners(num_partitions) == []
    stream.end()
    drill.run("join", "--stop-at-end")
    if add_partitions is None:
        assert drill.examples() == stream.expected
    # A click that is forwarded after the window of its request was closed comes as a retraction.
    assert learnt(drill.examples()) == learnt(stream.expected)
    # An action in flight while partitions were added has a letter where its request is not, although it was joined elsewhere.
    assert {letter.kind for letter in drill.dead_letters()} <= ({LetterKind.UNMATCHED} if add_partitions is not None else set())


def learnt(examples: Counter[Example]) -> dict[tuple[str, int], tuple[int, int, int]]:
    """Return for each candidate the number of its examples that are no retraction, its label in the end, and how often any came."""
    found: dict[tuple[str, int], tuple[int, int, int]] = {}
    for (request_id, item, kind, label), num in examples.items():
        labelled, last, most = found.get((request_id, item), (0, 0, 0))
        found[request_id, item] = labelled + (num if kind == 0 else 0), max(last, label), max(most, num)
    return found


def settings(url: str = "") -> dict[str, dict[str, object]]:
    """Return sections of settings. Requests are remembered for longer than event time jumps while partitions are added."""
    log: dict[str, object] = {"partitions": NUM_PARTITIONS}
    return {
        "log": log | ({"url": url, "topic_prefix": "group."} if url else {}),
        "joiner": {"session_timeout_s": TIMEOUT_S, "allowed_lateness_s": 600.0},
    }


def test_three_joiners_on_sqlite(deploy: Callable[..., Deployment]) -> None:
    drill = deploy(**settings())
    kv = open_kv(drill.job.kv.url)
    shared_by_three(drill, Leases(drill, kv), None)
    kv.close()


@pytest.mark.needs_kafka
@pytest.mark.needs_redis
@pytest.mark.slow
def test_three_joiners_on_kafka_and_redis(
    deploy: Callable[..., Deployment], start_redis: Callable[..., RedisServer], broker: KafkaBroker
) -> None:
    drill = deploy(**settings(broker.url), kv={"url": start_redis().url})
    kv = open_kv(drill.job.kv.url)
    admin = KafkaAdminClient(bootstrap_servers=broker.url.removeprefix("kafka://"))

    def add_partitions(number: int) -> None:
        for topic in (drill.topics.examples, drill.topics.actions, drill.topics.impressions):
            admin.create_partitions({topic: number})
            # The broker answers before all that ask it see them.
            wait_until(lambda topic=topic: len(admin.describe_topics([topic])[0]["partitions"]) == number)

    shared_by_three(drill, Leases(drill, kv), add_partitions)
    admin.close()
    kv.close()
