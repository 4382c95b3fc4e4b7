"""Faults at random moments on one job: processes and servers are killed with SIGKILL, connections cut or slowed down, the store emptied.

The same seed gives the same faults in the same order. Their moments depend on the progress of the processes, so on the machine as well.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from cuttable_proxy import CuttableProxy, ProxiedBroker
from sound_stream import LEAD, SoundStream
from surroundings import Child, Deployment, RedisServer, wait_until

from monolith_py.clock import SystemClock

# Shares of the kills.
_SHARES = {"joiner": 4, "trainer": 2, "redis": 3, "broker": 1}
# Lines that a process writes once it is at work.
_AT_WORK = {"joiner": "reading on at offsets", "trainer": "published generation"}
_COMMANDS = {"joiner": "join", "trainer": "train"}
_MOST_REQUESTS = 40  # between two kills
# All settings of persistence that a joiner accepts. One is drawn at each start of Redis, so the store also goes back, or is empty.
_PERSISTENCE = (
    ("--appendonly", "yes", "--appendfsync", "always"),
    ("--appendonly", "yes", "--appendfsync", "everysec"),
    ("--appendonly", "yes", "--appendfsync", "no"),
    ("--appendonly", "no", "--save", "1 1"),
    ("--appendonly", "no", "--save", ""),
)


@dataclass(frozen=True)
class Servers:
    """Genuine servers of the job, each behind a proxy."""

    broker: ProxiedBroker
    redis: RedisServer
    store_proxy: CuttableProxy


class RandomFaults:
    """Joiners and a trainer of a job, its stream, and their faults. `servers`: None for a job on SQLite."""

    def __init__(self, drill: Deployment, stream: SoundStream, seed: int, servers: Servers | None = None, num_joiners: int = 1) -> None:
        self._drill, self._stream, self._servers = drill, stream, servers
        self._random, self._clock = random.Random(seed), SystemClock()
        self._children: dict[str, Child] = {}
        self._roles = ["trainer", *(f"joiner {number}" for number in range(num_joiners))]
        # Kills by victim, other faults by kind, and the restarts of joiners whose store was emptied or went back.
        self.counts: Counter[str] = Counter()

    def run(self, num_kills: int) -> None:
        """Start the processes and kill so many victims; let everything come to work again, and stop the processes."""
        for role in self._roles:
            self._start(role)
        self._stream.append(LEAD)
        victims = [victim for victim in _SHARES if self._servers or victim in _COMMANDS]
        for number in range(num_kills):
            # Every kind of victim comes as soon as there is a kill for each.
            victim = victims[number] if number < len(victims) else self._random.choices(victims, [_SHARES[one] for one in victims])[0]
            self._disturb()
            self._stream.append(self._random.randrange(_MOST_REQUESTS))
            if self._random.random() < 0.2:
                self._stream.repeat()
                self.counts["repeat"] += 1
            self._wait_for_a_moment(victim)
            self._kill(victim)
        self._calm_down()

    def _start(self, role: str) -> None:
        self._children[role] = self._drill.start(_COMMANDS[role.partition(" ")[0]])

    def _kill(self, victim: str) -> None:
        self.counts[victim] += 1
        if victim == "broker":
            self._servers.broker.kill()
            self._servers.broker.start()
        elif victim == "redis":
            self._servers.redis.kill()
            self._servers.redis.options = self._random.choice(_PERSISTENCE)
            self._servers.redis.start()
        else:
            role = self._random.choice([role for role in self._roles if role.startswith(victim)])
            self._children[role].kill()
            if victim == "joiner" and self._servers is None and self._random.random() < 0.2:
                self._empty_store()
            self._start(role)

    def _wait_for_a_moment(self, victim: str) -> None:
        """Wait until the victim is at work, or, one time in three, not: a process may be starting or recovering."""
        if self._random.random() < 1 / 3:
            self._clock.sleep(self._random.random())
            return
        kind = victim if victim in _COMMANDS else "joiner"
        self._wait_until(lambda: self._are_at_work(kind))
        self._stream.append(self._random.randrange(1, _MOST_REQUESTS))
        self._clock.sleep(self._random.random() * 0.3)

    def _are_at_work(self, kind: str) -> bool:
        return all(_AT_WORK[kind] in self._children[role].said() for role in self._roles if role.startswith(kind))

    def _disturb(self) -> None:
        """Cut or slow down connections, or empty the store, or none of these; what was slow is fast again."""
        if self._servers is None:
            return
        log, store = self._servers.broker.proxy, self._servers.store_proxy
        log.delay_s = store.delay_s = 0.0
        fault = self._random.choices(["", "cut log", "cut store", "slow log", "slow store", "empty store"], [12, 3, 3, 1, 1, 1])[0]
        self.counts[fault] += 1
        if fault.startswith("cut"):
            (log if fault == "cut log" else store).cut()
        elif fault.startswith("slow"):
            (log if fault == "slow log" else store).delay_s = self._random.random() * 0.1
        elif fault:
            self._servers.redis.client.flushall()

    def _empty_store(self) -> None:
        self.counts["empty store"] += 1
        for file in self._drill.folder.glob("kv.db*"):
            if not file.name.endswith("lock"):
                file.unlink()

    def _wait_until(self, condition: Callable[[], object]) -> None:
        def holds() -> object:
            self._restart_fenced()
            return condition()

        wait_until(holds)

    def _restart_fenced(self) -> None:
        """Start joiners again that have ended, as a supervisor does. Only a store that lost a commit may end one."""
        for role, child in self._children.items():
            if not child.is_running:
                child.must_refuse("Fenced")
                assert role.startswith("joiner"), child.said()[-3000:]
                self.counts["fenced"] += 1
                self._start(role)

    def _calm_down(self) -> None:
        if self._servers is not None:
            self._servers.broker.proxy.delay_s = self._servers.store_proxy.delay_s = 0.0
        self._wait_until(lambda: self._stream.num_emitted() >= self._stream.num_requests - LEAD)
        self._wait_until(lambda: self._are_at_work("joiner") and self._are_at_work("trainer"))
        for child in self._children.values():
            child.stop()
        self._stream.end()
        self._drill.run("join", "--stop-at-end")
        self._drill.run("train", "--stop-at-end")
