"""The Kv on a Redis server. The only module that imports redis-py.

A write is one MULTI/EXEC transaction. The server's settings decide its durability: `appendonly yes` with `appendfsync always` keeps every
acknowledged write; `everysec` may lose the last second if the machine dies.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import cast

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from monolith_py.errors import ConfigError, KvError

# Keys of one MGET, MSET or DEL: few round trips, and no long block for other clients.
_CHUNK = 500
# 3.3 s of pauses: a server that restarts is back by then. Afterwards the caller gets a KvError.
_RETRIES, _LONGEST_PAUSE_S = 8, 1.0
_SOCKET_TIMEOUT_S = 5.0


class RedisKv:
    """A `Kv` on the server at `url` (`redis://host:port/db`, `rediss://...`, `unix:///path?db=0`). Safe for threads.

    `password` is for a URL without one.
    """

    def __init__(self, url: str, *, password: str | None = None) -> None:
        # The password, if any, stays out of errors.
        self._name = re.sub(r"//[^@/]*@", "//", url)
        try:
            # A retried write is safe: puts and deletes are idempotent.
            self._client = redis.Redis.from_url(
                url,
                password=password,
                socket_timeout=_SOCKET_TIMEOUT_S,
                socket_connect_timeout=_SOCKET_TIMEOUT_S,
                retry=Retry(ExponentialBackoff(cap=_LONGEST_PAUSE_S, base=0.01), _RETRIES),
            )
        except ValueError as error:
            raise ConfigError(f"kv.url must be an address of a Redis server, got {self._name!r}: {error}") from None

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the value of each key, None for an absent one."""
        values: list[bytes | None] = []
        with _mapped_errors(self._name):
            for start in range(0, len(keys), _CHUNK):
                values.extend(self._mget(keys[start : start + _CHUNK]))
        return values

    def write(self, puts: Mapping[str, bytes], deletes: Sequence[str] = ()) -> None:
        """Put, then delete, in one atomic step: a key in both is absent afterwards."""
        with _mapped_errors(self._name), self._client.pipeline(transaction=True) as pipeline:
            entries = iter(puts.items())
            while chunk := dict(islice(entries, _CHUNK)):
                pipeline.mset(chunk)
            for start in range(0, len(deletes), _CHUNK):
                pipeline.delete(*deletes[start : start + _CHUNK])
            pipeline.execute()

    def scan(self, prefix: str) -> Iterator[tuple[str, bytes]]:
        """Yield every (key, value) with a key that starts with `prefix`, each once, in no order."""
        pattern = re.sub(r"([\\*?\[\]^])", r"\\\1", prefix) + "*"
        cursor, seen = 0, set[bytes]()
        while True:
            with _mapped_errors(self._name):
                cursor, keys = cast(tuple[int, list[bytes]], self._client.scan(cursor, match=pattern, count=_CHUNK))
                new = list(dict.fromkeys(key for key in keys if key not in seen))
                values = self._mget(new) if new else []
            seen.update(new)
            for key, value in zip(new, values, strict=True):
                if value is not None:
                    yield key.decode(), value
            if cursor == 0:
                return

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _mget(self, keys: Sequence[str] | Sequence[bytes]) -> list[bytes | None]:
        return cast(list[bytes | None], self._client.mget(list(keys)))


@contextmanager
def _mapped_errors(name: str) -> Iterator[None]:
    """Map errors of redis-py to `KvError` with the server and the cause."""
    try:
        yield
    except (redis.RedisError, OSError) as error:
        raise KvError(f"{name}: {error}") from error
