"""The Kv seam: a store of bytes by text key; `open_kv` picks the implementation by URL."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from monolith_py.config import KvConfig
from monolith_py.config.security import KvSecurityConfig
from monolith_py.errors import ConfigError, Fenced
from monolith_py.io.secret import KV_KEY_PASSWORD, KV_PASSWORD, read_secret

# Bytes of a value in the text of an error.
_TEXT_BYTES = 100


class Kv(Protocol):
    """Bytes by key, in batches. Safe for threads. All methods raise `KvError` if the store cannot be reached."""

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the value of each key, None for an absent one."""
        ...

    def write(self, puts: Mapping[str, bytes], deletes: Sequence[str] = (), expect: Mapping[str, bytes | None] | None = None) -> None:
        """Put, then delete, in one atomic, durable step: a key in both is absent afterwards.

        `expect`: values that keys must have before, None for an absent one.

        Raises:
            Fenced: a key of `expect` has another value, and nothing was written.
        """
        ...

    def scan(self, prefix: str) -> Iterator[tuple[str, bytes]]:
        """Yield every (key, value) with a key that starts with `prefix`, each once, in no order.

        Concurrent writes may be seen or not.
        """
        ...

    def close(self) -> None:
        """Free connections and files."""
        ...


class MemoryKv:
    """A `Kv` in the memory of this process, for tests and for features loaded at the start.

    >>> kv = MemoryKv()
    >>> kv.write({"user:1": b"a", "user:2": b"b"}, deletes=["user:2"])
    >>> kv.get_many(["user:1", "user:2"])
    [b'a', None]
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[str, bytes] = {}

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the value of each key, None for an absent one."""
        with self._lock:
            return [self._values.get(key) for key in keys]

    def write(self, puts: Mapping[str, bytes], deletes: Sequence[str] = (), expect: Mapping[str, bytes | None] | None = None) -> None:
        """Put, then delete, in one atomic step: a key in both is absent afterwards."""
        with self._lock:
            check_expected(expect, [self._values.get(key) for key in expect or ()])
            self._values.update(puts)
            for key in deletes:
                self._values.pop(key, None)

    def scan(self, prefix: str) -> Iterator[tuple[str, bytes]]:
        """Yield every (key, value) with a key that starts with `prefix`, as of the first step."""
        with self._lock:
            found = [(key, value) for key, value in self._values.items() if key.startswith(prefix)]
        yield from found

    def close(self) -> None:
        """Delete all values."""
        with self._lock:
            self._values.clear()


def check_expected(expect: Mapping[str, bytes | None] | None, got: Sequence[bytes | None]) -> None:
    """Check the values `got` of the keys of `expect`.

    Raises:
        Fenced: one differs.
    """
    for (key, expected), value in zip((expect or {}).items(), got, strict=True):
        if value != expected:
            rule = f"{key!r} must be {_text(expected)!r} in the store"
            raise Fenced(f"{rule}, got {_text(value)!r}: another process has taken over, or the store has lost it")


def _text(value: bytes | None) -> str | None:
    return None if value is None else value[:_TEXT_BYTES].decode(errors="replace")


def open_kv(where: str | KvConfig) -> Kv:
    """Return the store at a URL, or of a job's section.

    `memory:` (a new one at each call), `sqlite:///FILE` (a fourth slash for an absolute path), `redis://host:port/db`, `rediss://...` (TLS)
    or `unix:///path/redis.sock?db=0`. A Redis URL without a password takes that of the environment (io/secret.py).

    Raises:
        ConfigError: the URL names no kind of store, or a secret or a file of TLS cannot be read.
    """
    url, security = (where, KvSecurityConfig()) if isinstance(where, str) else (where.url, where.security)
    if url == "memory:":
        return MemoryKv()
    if url.startswith("sqlite:///"):
        from monolith_py.io.kv.sqlite import SqliteKv
        from monolith_py.io.sqlite_file import path_of_url

        return SqliteKv(path_of_url(url))
    if url.startswith(("redis://", "rediss://", "unix://")):
        from monolith_py.io.kv.redis import RedisKv

        return RedisKv(url, password=read_secret(KV_PASSWORD), security=security, key_password=read_secret(KV_KEY_PASSWORD))
    raise ConfigError(f"kv.url must be memory: or begin with sqlite:///, redis://, rediss:// or unix://, got {url!r}")
