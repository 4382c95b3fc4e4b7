"""The group of a job's joiners, in Kv: its members, their signs of life, and the owner of each partition.

Keys, all below `joiner:JOB:TOPIC:`

    members        names of the members, and the numbers of partitions so far with the wall clock when they were noticed
    member:NAME    a counter that the member increases: its heartbeat
    owner:P        name of the member that owns the state of partition P; empty while P is free

A member is dead once its counter has stood still for `session_timeout_s`, by the monotonic clock of the one who looks: clocks of machines
are not compared. Only time in which the observer itself looked counts, so one that was paused finds nobody dead. A member of the same
machine whose process has ended is dead at once.

All of this decides who tries to own a partition, and nothing else. Who does own one is decided by the fences: the writer of the partition
in the log (`Log.writer`), and the owner and position that every commit to Kv expects. So members that see different things for a while
may take a partition from each other, but never write an example twice.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from monolith_py.clock import Clock
from monolith_py.errors import Fenced, WireError
from monolith_py.io import Kv
from monolith_streaming.joiner.assignment import assign
from monolith_streaming.joiner.member import has_ended
from monolith_streaming.joiner.position import StateKeys

_logger = logging.getLogger(__name__)

_VERSION = 1
# Heartbeats in a session's time-out. A look counts at most two intervals of silence.
_BEATS = 6
_ATTEMPTS = 20
FREE = b""
# Mark of the heartbeat of a member that wants all partitions.
_EXCLUSIVE = b"all "


@dataclass(frozen=True)
class View:
    """The group as one member sees it."""

    name: str  # of the member that looks
    live: tuple[str, ...]  # names of the members not known to be dead, in order, the one that looks included
    silent: frozenset[str]  # of them those that have shown no sign of life yet
    exclusive: frozenset[str]  # of them those that want all partitions
    owners: dict[int, bytes | None]  # by partition, as stored
    counts: tuple[tuple[int, int], ...]  # numbers of partitions so far: (wall clock in ms, number)

    @property
    def others(self) -> list[str]:
        """Return the other members that have shown a sign of life."""
        return [name for name in self.live if name != self.name and name not in self.silent]

    def share(self) -> list[int]:
        """Return the partitions that the member which looks should own."""
        owners = {number: owner.decode() for number, owner in self.owners.items() if owner}
        assigned = assign(self.exclusive or self.live, len(self.owners), owners)
        return [number for number, name in assigned.items() if name == self.name]

    def may_take(self, number: int) -> bool:
        """Return whether a partition is free, or its owner dead."""
        owner = self.owners[number]
        return not owner or owner.decode() == self.name or owner.decode() not in self.live


@dataclass
class _Other:
    """Another member: its last heartbeat, and for how long it has been silent."""

    beat: bytes | None
    silence_s: float = 0.0
    is_confirmed: bool = False


@dataclass
class _Record:
    """The stored list of members."""

    members: list[str] = field(default_factory=list)
    counts: list[list[int]] = field(default_factory=list)


class Group:
    """One member's side of the group. For one thread, `beat` aside."""

    def __init__(
        self,
        kv: Kv,
        keys: StateKeys,
        name: str,
        session_timeout_s: float,
        clock: Clock,
        has_ended: Callable[[str], bool] = has_ended,
    ) -> None:
        self.name, self.is_exclusive = name, False
        self._kv, self._keys, self._clock, self._has_ended = kv, keys, clock, has_ended
        self._session_timeout_s, self.interval_s = session_timeout_s, session_timeout_s / _BEATS
        self._others: dict[str, _Other] = {}
        self._counter, self._beats = 0, threading.Lock()
        self._beat_due_s = self._looked_s = clock.monotonic_s()

    def beat(self) -> None:
        """Give a sign of life if it is due; for use within long operations, by any thread."""
        if self._clock.monotonic_s() < self._beat_due_s or not self._beats.acquire(blocking=False):
            return
        try:
            self._kv.write(self._next_beat())
        finally:
            self._beats.release()

    def look(self, num_partitions: int) -> View:
        """Give a sign of life, join the group if it does not have this member, and return the group as it is now.

        Raises:
            WireError: the store has a list of members of another version.
        """
        now_s = self._clock.monotonic_s()
        elapsed_s, self._looked_s = min(now_s - self._looked_s, 2 * self.interval_s), now_s
        record = self._enter(num_partitions)
        names = [name for name in record.members if name != self.name]
        keys = [self._keys.member(name) for name in names] + [self._keys.owner(number) for number in range(num_partitions)]
        values = self._kv.get_many(keys)
        beats, owners = values[: len(names)], values[len(names) :]
        live = [name for name, beat in zip(names, beats, strict=True) if self._lives(name, beat, elapsed_s)]
        self._bury([name for name in names if name not in live])
        self._others = {name: self._others[name] for name in live}
        exclusive = {name for name in live if (self._others[name].beat or b"").startswith(_EXCLUSIVE)}
        return View(
            self.name,
            tuple(sorted([*live, self.name])),
            frozenset(name for name in live if not self._others[name].is_confirmed),
            frozenset(exclusive | ({self.name} if self.is_exclusive else set())),
            dict(enumerate(owners)),
            tuple((since_ms, count) for since_ms, count in record.counts),
        )

    def leave(self) -> None:
        """Tell the others that this member has gone."""
        self._change(lambda record: self._without(record, [self.name]), {})

    def _next_beat(self) -> dict[str, bytes]:
        """Return the entry of the next heartbeat."""
        self._beat_due_s = self._clock.monotonic_s() + self.interval_s
        self._counter += 1
        mark = _EXCLUSIVE if self.is_exclusive else b""
        return {self._keys.member(self.name): mark + str(self._counter).encode()}

    def _lives(self, name: str, beat: bytes | None, elapsed_s: float) -> bool:
        """Note the heartbeat of another member and return whether it lives; without one it has left."""
        other = self._others.setdefault(name, _Other(beat))
        if beat == other.beat:
            other.silence_s += elapsed_s
        else:
            other.beat, other.silence_s, other.is_confirmed = beat, 0.0, True
        return beat is not None and other.silence_s < self._session_timeout_s and not self._has_ended(name)

    def _enter(self, num_partitions: int) -> _Record:
        """Give a sign of life, and put this member in the list in place of those that have ended."""

        def entered(record: _Record) -> _Record:
            members = [name for name in record.members if name == self.name or not self._has_ended(name)]
            counts = record.counts
            if not counts or counts[-1][1] < num_partitions:
                counts = [*counts, [self._clock.now_ms(), num_partitions]]
            return _Record(members if self.name in members else [*members, self.name], counts)

        return self._change(entered, self._next_beat())

    def _bury(self, names: Sequence[str]) -> None:
        """Remove dead members; one that was only paused enters again."""
        if names:
            _logger.warning("joiners gone: %s", ", ".join(names))
            self._change(lambda record: self._without(record, names), {})

    def _without(self, record: _Record, names: Sequence[str]) -> _Record:
        return _Record([name for name in record.members if name not in names], record.counts)

    def _change(self, changed: Callable[[_Record], _Record], puts: Mapping[str, bytes]) -> _Record:
        """Replace the list of members by compare and set, write `puts` in any case, and return the list."""
        key = self._keys.members
        for _ in range(_ATTEMPTS):
            (value,) = self._kv.get_many([key])
            record = _decode(value)
            wanted = changed(record)
            if wanted == record:
                break
            removed = [self._keys.member(name) for name in record.members if name not in wanted.members]
            try:
                self._kv.write({key: _encode(wanted), **puts}, removed, {key: value})
                return wanted
            except Fenced:
                continue  # another member was sooner
        if puts:
            self._kv.write(puts)
        return wanted


def _encode(record: _Record) -> bytes:
    return json.dumps({"version": _VERSION, "members": record.members, "counts": record.counts}).encode()


def _decode(value: bytes | None) -> _Record:
    if value is None:
        return _Record()
    try:
        fields = json.loads(value)
        version, members, counts = fields["version"], list(fields["members"]), [list(one) for one in fields["counts"]]
    except (ValueError, KeyError, TypeError) as error:
        raise WireError(f"the joiner's group must be a JSON object with members and counts, got {value[:200]!r}: {error}") from None
    if version != _VERSION:
        raise WireError(f"version of the joiner's group must be {_VERSION}, got {version}")
    return _Record(members, counts)
