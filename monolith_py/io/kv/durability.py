"""Check that a store keeps the joiner's state: no eviction, and every acknowledged write on the disk."""

from __future__ import annotations

import logging
from typing import Protocol, runtime_checkable

from monolith_py.errors import ConfigError
from monolith_py.io.kv.kv import Kv

_logger = logging.getLogger(__name__)


@runtime_checkable
class HasPolicy(Protocol):
    """A store whose server has settings of eviction and persistence."""

    def policy(self) -> dict[str, str]:
        """Return the settings by name; those that the server does not show are absent."""
        ...


def check_keeps_state(kv: Kv) -> None:
    """Check the server's settings; log those that may lose acknowledged writes.

    Raises:
        ConfigError: the server evicts keys when its memory is full.
    """
    if not isinstance(kv, HasPolicy):
        return
    policy = kv.policy()
    if not policy:
        _logger.warning("eviction and persistence of Redis are unknown: its user has no permission for INFO and CONFIG GET")
    evicts = policy.get("maxmemory_policy", "noeviction")
    if evicts != "noeviction" and policy.get("maxmemory", "0") != "0":
        raise ConfigError(f"kv.url must be a Redis with maxmemory-policy noeviction, got {evicts}: it would forget waiting impressions")
    if policy.get("aof_enabled") == "0":
        _logger.warning("Redis has appendonly no: after a crash of its machine examples may be written twice. Set appendonly yes")
    elif policy.get("appendfsync", "always") != "always":
        _logger.warning("Redis has appendfsync %s: a crash of its machine may lose the last second. Set always", policy["appendfsync"])
