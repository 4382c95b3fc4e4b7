"""The Kv on a Redis server. The only module that imports redis-py.

A write is one MULTI/EXEC transaction. The server's settings decide its durability: `appendonly yes` with `appendfsync always` keeps every
acknowledged write; `everysec` may lose the last second if the machine dies.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from typing import Any, cast

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from monolith_py.config.security import KvSecurityConfig
from monolith_py.errors import ConfigError, KvDenied, KvError
from monolith_py.io.kv.kv import check_expected
from monolith_py.io.tls import tls_context, tls_fault

# Keys of one MGET, MSET or DEL: few round trips, and no long block for other clients.
_CHUNK = 500
# 3.3 s of pauses: a server that restarts is back by then. Afterwards the caller gets a KvError.
_RETRIES, _LONGEST_PAUSE_S = 8, 1.0
_SOCKET_TIMEOUT_S = 5.0
_OPEN = KvSecurityConfig()
# Refusals that no further attempt cures.
_DENIALS = (
    redis.AuthenticationError,
    redis.exceptions.AuthenticationWrongNumberOfArgsError,
    redis.exceptions.AuthorizationError,
    redis.exceptions.NoPermissionError,
)


class _RetryUnlessDenied(Retry):
    """Retries as redis-py does, but for a refusal: it is a `ConnectionError` there, and was tried nine times."""

    def call_with_retry(
        self,
        do: Callable[[], Any],
        fail: Callable[..., Any],
        is_retryable: Callable[[Exception], bool] | None = None,
        with_failure_count: bool = False,
    ) -> Any:
        """Call `do` until it succeeds, is denied, or has failed too often."""

        def may_pass(error: Exception) -> bool:
            return not _is_denial(error) and (is_retryable is None or is_retryable(error))

        return super().call_with_retry(do, fail, may_pass, with_failure_count)


class RedisKv:
    """A `Kv` on the server at `url` (`redis://host:port/db`, `rediss://...`, `unix:///path?db=0`). Safe for threads.

    `password` is for a URL without one; `key_password` decrypts the key of the client's certificate.

    Raises:
        ConfigError: the URL is no address of a Redis server, or a file of TLS cannot be used.
    """

    def __init__(
        self, url: str, *, password: str | None = None, security: KvSecurityConfig = _OPEN, key_password: str | None = None
    ) -> None:
        self._name = name_of_url(url)
        settings: dict[str, Any] = {"password": password}
        if security.username is not None:
            settings["username"] = security.username
        self._tls = None
        if url.startswith("rediss://"):
            # The client reads the files at each connection, so a renewed certificate is taken up; here they are checked.
            self._tls = tls_context("kv", security.ca_file, security.certificate_file, security.key_file, key_password)
            settings |= {"ssl_ca_certs": security.ca_file, "ssl_certfile": security.certificate_file, "ssl_keyfile": security.key_file}
            settings["ssl_password"] = key_password
        try:
            # A retried write is safe: puts and deletes are idempotent.
            self._client = redis.Redis.from_url(
                url,
                **settings,
                socket_timeout=_SOCKET_TIMEOUT_S,
                socket_connect_timeout=_SOCKET_TIMEOUT_S,
                retry=_RetryUnlessDenied(ExponentialBackoff(cap=_LONGEST_PAUSE_S, base=0.01), _RETRIES),
            )
        except ValueError:  # its text quotes the URL, with the password
            raise ConfigError(f"kv.url must be an address of a Redis server, got {self._name!r}") from None

    def policy(self) -> dict[str, str]:
        """Return the server's settings of eviction and persistence; those that it does not show are absent."""
        policy: dict[str, str] = {}
        with self._mapped_errors():
            with suppress(redis.exceptions.NoPermissionError):
                found = {**self._client.info("memory"), **self._client.info("persistence")}
                names = ("maxmemory", "maxmemory_policy", "aof_enabled")
                policy = {name: str(found[name]) for name in names if name in found}
            with suppress(redis.ResponseError):  # a managed server may forbid CONFIG
                for name, value in cast(dict[Any, Any], self._client.config_get("appendfsync")).items():
                    policy[_text(name)] = _text(value)
        return policy

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the value of each key, None for an absent one."""
        values: list[bytes | None] = []
        with self._mapped_errors():
            for start in range(0, len(keys), _CHUNK):
                values.extend(self._mget(keys[start : start + _CHUNK]))
        return values

    def write(self, puts: Mapping[str, bytes], deletes: Sequence[str] = (), expect: Mapping[str, bytes | None] | None = None) -> None:
        """Put, then delete, in one atomic step: a key in both is absent afterwards."""
        with self._mapped_errors(), self._client.pipeline(transaction=True) as pipeline:
            if expect:
                # A change before EXEC is a WatchError, so a KvError: the next attempt sees it here.
                cast(Any, pipeline).watch(*expect)
                check_expected(expect, cast(list[bytes | None], pipeline.mget(list(expect))))
                pipeline.multi()
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
            with self._mapped_errors():
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
    def _mapped_errors(self) -> Iterator[None]:
        """Map errors of redis-py to `KvError`. A server that has become a replica is left: the next call asks its name again."""
        try:
            with mapped_errors(self._name):
                yield
        except KvError as error:
            if isinstance(error.__cause__, redis.ReadOnlyError | redis.exceptions.ExecAbortError):
                self._client.connection_pool.disconnect()
            if self._tls is not None and type(error.__cause__) is redis.ConnectionError:
                server = self._client.connection_pool.connection_kwargs
                # A server that asks for a client certificate refuses after the handshake: the client sees a connection that ended.
                if fault := tls_fault(self._tls, server["host"], server.get("port", 6379), waits=True):
                    raise KvDenied(f"{self._name}: {fault}") from error
            raise


def _is_denial(error: BaseException | None) -> bool:
    """Return whether an error, or one behind it, is a refusal of the user, the password or a certificate."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, (*_DENIALS, ssl.SSLCertVerificationError)):
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


_CREDENTIAL_OPTIONS = re.compile(r"[?&](password|username)=.*$", re.DOTALL)


def name_of_url(url: str) -> str:
    """Return `url` without user, password and options.

    >>> name_of_url("redis://:p@ss/word@host:6379/0?password=other")
    'redis://host:6379/0'
    """
    scheme, _, rest = _CREDENTIAL_OPTIONS.sub("", url).partition("://")
    return f"{scheme}://{rest.rpartition('@')[2].partition('?')[0]}"


# redis-py quotes the whole command, with keys and values, before the error of a pipeline.
_QUOTED_COMMAND = re.compile(r"^Command # \d+ \(.*\) of pipeline caused error: ", re.DOTALL)
# A server quotes the arguments of a command that it does not know.
_QUOTED_ARGUMENTS = re.compile(r",? with args beginning with:.*", re.DOTALL)
_MESSAGE_CHARS = 200


@contextmanager
def mapped_errors(name: str) -> Iterator[None]:
    """Map errors of redis-py to `KvError` with the server and the cause, without keys and values."""
    try:
        yield
    except (redis.RedisError, OSError) as error:
        text = _QUOTED_ARGUMENTS.sub("", _QUOTED_COMMAND.sub("", str(error)))
        kind = KvDenied if _is_denial(error) else KvError
        raise kind(f"{name}: {text[:_MESSAGE_CHARS] or type(error).__name__}") from error
