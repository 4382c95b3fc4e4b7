"""Leases of readers: a checkpoint is not deleted while a process reads it.

leases/<checkpoint>/<reader>   {"number", "renewed_ms"}: written again every `_RENEW_S`, deleted when the reader is done
leases/<checkpoint>/deleting   the checkpoint is about to be deleted

A reader writes its lease and then looks for `deleting`; the deleter writes `deleting` and then looks for leases. So at least one of them
sees the other: the reader takes another checkpoint, or the deleter leaves this one.
"""

from __future__ import annotations

import json
import logging
import secrets
import socket
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from monolith_py.clock import Clock
from monolith_py.errors import CheckpointError, ObjectError, ObjectMissing
from monolith_py.io.objects import Objects

_logger = logging.getLogger(__name__)

_RENEW_S = 10.0
# A lease that does not change for this long, seen by the deleter's own clock, is of a reader that is dead.
LEASE_S = 60.0
# So is one whose own time is this old: a deleter that runs for a moment never sees it unchanged for long.
STALE_S = 3600.0
_FOLDER, _DELETING = "leases", "deleting"


class Leases:
    """Leases of the checkpoints of a job."""

    def __init__(self, objects: Objects, clock: Clock) -> None:
        self._objects, self._clock = objects, clock
        self._seen: dict[str, tuple[bytes, float]] = {}  # lease -> its content, and since when
        self._is_refused = False

    @contextmanager
    def reading(self, name: str) -> Iterator[None]:
        """Hold a lease of the checkpoint `name` for the block. In a folder that cannot be written there is none: that is logged once.

        Raises:
            CheckpointError: the checkpoint is being deleted.
        """
        lease = _Lease(self._objects, self._clock, f"{_FOLDER}/{name}/{socket.gethostname()}-{secrets.token_hex(6)}")
        try:
            lease.renew()
        except ObjectError as error:
            if not self._is_refused:
                _logger.warning("no lease, so checkpoints may be deleted while they are read: %s", error)
            self._is_refused = True
            yield
            return
        with lease.held():
            if self.is_marked(name):
                raise CheckpointError(f"{name}: is being deleted")
            yield

    def may_delete(self, name: str) -> bool:
        """Return whether no process reads the checkpoint `name`; from then on none begins to, until `forget` or `tidy`."""
        self._objects.write(f"{_FOLDER}/{name}/{_DELETING}", b"")
        readers = [key for key in self._objects.list(f"{_FOLDER}/{name}/") if not key.endswith(f"/{_DELETING}")]
        alive = [key for key in readers if self._is_alive(key)]  # looks at all of them, to know since when each is unchanged
        if alive:
            self._objects.delete([f"{_FOLDER}/{name}/{_DELETING}"])
            return False
        return True

    def held(self) -> set[str]:
        """Return the names of the checkpoints that are read."""
        leases = [key for key in self._objects.list(f"{_FOLDER}/") if not key.endswith(f"/{_DELETING}")]
        return {key.split("/")[1] for key in leases if self._is_alive(key)}

    def forget(self, name: str) -> None:
        """Delete the leases of a checkpoint that was deleted."""
        folder = f"{_FOLDER}/{name}/"
        self._objects.delete_below(folder)
        for key in [key for key in self._seen if key.startswith(folder)]:
            del self._seen[key]

    def tidy(self, kept: Collection[str], others: Collection[str]) -> None:
        """Clear up after deleters that were killed: let readers read `kept`, and delete leases of what is in neither."""
        stale = []
        for key in self._objects.list(f"{_FOLDER}/"):
            _, name, reader = key.split("/", 2)
            if name not in others and (name not in kept or reader == _DELETING):
                stale.append(key)
        self._objects.delete(stale)

    def is_marked(self, name: str) -> bool:
        """Return whether the checkpoint `name` is about to be deleted, or being deleted."""
        try:
            self._objects.read(f"{_FOLDER}/{name}/{_DELETING}")
        except ObjectMissing:
            return False
        return True

    def _is_alive(self, key: str) -> bool:
        try:
            value = self._objects.read(key)
        except ObjectMissing:
            return False
        now_s = self._clock.monotonic_s()
        known, since_s = self._seen.get(key, (b"", now_s))
        if known != value:
            since_s = now_s
        self._seen[key] = (value, since_s)
        try:
            renewed_ms = int(json.loads(value)["renewed_ms"])
        except (ValueError, KeyError, TypeError):
            renewed_ms = self._clock.now_ms()
        return now_s - since_s < LEASE_S and self._clock.now_ms() - renewed_ms < STALE_S * 1000


class _Lease:
    """The lease of one reader."""

    def __init__(self, objects: Objects, clock: Clock, key: str) -> None:
        self._objects, self._clock, self._key = objects, clock, key
        self._number = 0
        self._ends = threading.Event()

    def renew(self) -> None:
        self._number += 1
        self._objects.write(self._key, json.dumps({"number": self._number, "renewed_ms": self._clock.now_ms()}).encode())

    @contextmanager
    def held(self) -> Iterator[None]:
        """Renew the lease in a thread; delete it after the block."""
        thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ends.set()
            thread.join()
            try:
                self._objects.delete([self._key])
            except ObjectError as error:
                _logger.warning("a lease stays until it expires: %s", error)

    def _keep(self) -> None:
        while not self._ends.wait(_RENEW_S):
            try:
                self.renew()
            except ObjectError as error:
                _logger.warning("a lease was not renewed: %s", error)
