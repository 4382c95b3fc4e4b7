"""Modules loaded by monolith_py.io, and the implementation of each URL."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import monolith_py.io
from monolith_py.errors import ConfigError, KvError, LogError
from monolith_py.io import Kv, MemoryKv, SqliteKv, SqliteLog, open_kv, open_log
from monolith_py.io.sqlite_file import path_of_url


def imported_by(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(' '.join(name for name in sys.modules if '.' not in name))"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_importing_io_brings_neither_kafka_nor_redis_nor_torch() -> None:
    assert not {"kafka", "redis", "torch", "pyarrow", "grpc"} & imported_by("import monolith_py.io")


def test_codecs_dead_letters_and_topics_bring_no_torch() -> None:
    modules = imported_by("import monolith_py.io.codec, monolith_py.io.log.dead_letters, monolith_py.io.log.topics")
    assert not {"kafka", "redis", "torch", "grpc"} & modules


def test_everything_in_all_is_there_and_sorted() -> None:
    for module in (monolith_py.io, __import__("monolith_py.io.codec", fromlist=["codec"])):
        assert module.__all__ == sorted(module.__all__)
        assert all(hasattr(module, name) for name in module.__all__)


def test_a_url_opens_the_implementation_that_it_names(
    tmp_path: Path, make_log: Callable[..., object], make_kv: Callable[..., object]
) -> None:
    assert isinstance(make_log(f"sqlite:///{tmp_path}/log"), SqliteLog)
    assert isinstance(make_kv(f"sqlite:///{tmp_path}/kv.db"), SqliteKv)
    assert isinstance(make_kv("memory:"), MemoryKv)
    assert make_kv("memory:") is not make_kv("memory:")


def test_paths_of_sqlite_urls_are_relative_or_with_a_fourth_slash_absolute() -> None:
    assert path_of_url("sqlite:///run/log") == Path("run/log")
    assert path_of_url("sqlite:////var/lib/log") == Path("/var/lib/log")
    with pytest.raises(ValueError, match=r"url must be sqlite:///PATH, got 'sqlite:///'"):
        path_of_url("sqlite:///")


def test_an_unknown_url_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"log.url must begin with sqlite:/// or kafka://, got 'http://x'"):
        open_log("http://x")
    with pytest.raises(ConfigError, match=r"kv.url must be memory: or begin with .*, got 'http://x'"):
        open_kv("http://x")
    with pytest.raises(ConfigError, match=r"kv.url must be an address of a Redis server, got 'redis://host:port'"):
        open_kv("redis://user:secret@host:port")


def test_a_path_that_cannot_be_used_is_an_error_naming_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no database, but long enough to look at" * 100)
    with pytest.raises(LogError, match="file"):
        open_log(f"sqlite:///{tmp_path}/file")
    with pytest.raises(KvError, match=r"file: file is not a database"):
        open_kv(f"sqlite:///{tmp_path}/file")
    with pytest.raises(KvError, match=r"file/kv\.db"):
        open_kv(f"sqlite:///{tmp_path}/file/kv.db")


def test_a_redis_that_is_not_there_is_an_error_that_hides_the_password(tmp_path: Path, make_kv: Callable[..., Kv]) -> None:
    kv = make_kv(f"unix://user:secret@{tmp_path}/no.sock?db=0")
    with pytest.raises(KvError, match=r"no\.sock") as caught:
        kv.get_many(["a"])
    assert "secret" not in str(caught.value)
