"""Lease of the topics of a history, in the store: one load at a time writes to them.

Every write of a load to the store renews its lease in the same transaction, and fails once another load has taken it.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress

from monolith_py.clock import Clock
from monolith_py.errors import AlreadyRunning, Fenced
from monolith_py.io import Kv

# Longer than a load takes between two writes: a chunk of records, and the time for which an absent log is waited for.
LEASE_S = 120.0


class LoadLease:
    """Lease of the topics with the name `topic` among them."""

    def __init__(self, kv: Kv, clock: Clock, topic: str, owner: str | None = None) -> None:
        """Name the lease; `owner`, a host and a process id, is this process by default."""
        self._kv, self._clock, self._key, self._topic = kv, clock, f"load:lease:{topic}", topic
        self._owner = owner or f"{socket.gethostname()} {os.getpid()}"
        self._token = secrets.token_hex(8)
        self._value: bytes | None = None

    def take(self) -> None:
        """Take the lease, also that of a load that is dead or has not renewed it in time.

        Raises:
            AlreadyRunning: another load is at work.
        """
        (value,) = self._kv.get_many([self._key])
        if value is not None:
            self._check(value)
        self._value = value
        self.write({})

    def write(self, puts: Mapping[str, bytes], deletes: Sequence[str] = ()) -> None:
        """Write to the store and renew the lease.

        Raises:
            Fenced: another load has taken the lease.
        """
        document = {"owner": self._owner, "token": self._token, "time_ms": self._clock.now_ms(), "number": secrets.token_hex(4)}
        renewed = json.dumps(document).encode()
        try:
            self._kv.write({**puts, self._key: renewed}, deletes, None if self._value is None else {self._key: self._value})
        except Fenced:
            # An attempt whose answer was lost may have done it.
            if self._kv.get_many([self._key]) != [renewed]:
                raise
        self._value = renewed

    def release(self) -> None:
        """Give the lease back; do nothing if another load has taken it."""
        if self._value is not None:
            with suppress(Fenced):
                self._kv.write({}, [self._key], {self._key: self._value})

    def _check(self, value: bytes) -> None:
        found = json.loads(value)
        age_s = (self._clock.now_ms() - found["time_ms"]) / 1000
        if age_s >= LEASE_S or not self._may_live(str(found["owner"])):
            return
        rule = f"one load at a time must write to {self._topic!r}, got another one (host and process id: {found['owner']})"
        raise AlreadyRunning(f"{rule}, which wrote {age_s:.0f} s ago: it is at work, or dead, and its lease ends after {LEASE_S:.0f} s")

    def _may_live(self, owner: str) -> bool:
        """Return whether another process than this one may be the owner's."""
        host, _, pid = owner.rpartition(" ")
        if owner == self._owner:
            return False
        if host != socket.gethostname():
            return True
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return True
