"""The contract of Kv, run over each implementation."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from monolith_py.errors import Fenced
from monolith_py.io import Kv

Make = Callable[..., Kv]
REDIS = pytest.param("redis", marks=pytest.mark.needs_redis)

WRITER = """
import sys
from monolith_py.io import open_kv

kv = open_kv(sys.argv[1])
number = 0
while True:
    number += 1
    kv.write({"left": b"%d" % number, "right": b"%d" % number})
    print(number, flush=True)
"""


def url_of(kind: str, request: pytest.FixtureRequest, folder: Path) -> str:
    if kind == "redis":
        return str(request.getfixturevalue("redis_url"))
    return "memory:" if kind == "memory" else f"sqlite:///{folder}/kv.db"


@pytest.fixture(params=["memory", "sqlite", REDIS])
def kv(request: pytest.FixtureRequest, tmp_path: Path, make_kv: Make) -> Iterator[Kv]:
    store = make_kv(url_of(request.param, request, tmp_path))
    yield store
    store.write({}, [key for key, _ in store.scan("")])


@pytest.fixture(params=["sqlite", REDIS])
def shared_url(request: pytest.FixtureRequest, tmp_path: Path, make_kv: Make) -> Iterator[str]:
    """URL of a store that several processes may open."""
    url = url_of(request.param, request, tmp_path)
    yield url
    store = make_kv(url)
    store.write({}, [key for key, _ in store.scan("")])


def test_values_are_in_the_order_of_the_keys(kv: Kv) -> None:
    kv.write({"a": b"1", "b": b"2"})
    assert kv.get_many(["b", "absent", "a", "b"]) == [b"2", None, b"1", b"2"]
    assert kv.get_many([]) == []


def test_a_put_replaces_and_a_delete_removes(kv: Kv) -> None:
    kv.write({"a": b"1", "b": b"2"})
    kv.write({"a": b"3"}, deletes=["b", "absent"])
    assert kv.get_many(["a", "b"]) == [b"3", None]


def test_a_key_put_and_deleted_at_once_is_gone(kv: Kv) -> None:
    kv.write({"a": b"1", "b": b"2"}, deletes=["a"])
    assert kv.get_many(["a", "b"]) == [None, b"2"]


def test_writing_nothing_is_allowed(kv: Kv) -> None:
    kv.write({})
    assert list(kv.scan("")) == []


def test_values_may_be_empty_binary_and_large(kv: Kv) -> None:
    values = {"empty": b"", "binary": bytes(range(256)), "large": np.random.default_rng(0).bytes(1_000_000)}
    kv.write(values)
    assert dict(zip(values, kv.get_many(list(values)), strict=True)) == values


def test_keys_may_be_any_text(kv: Kv) -> None:
    keys = ["", " ", "user:1", "a*b", "a?b", "[ab]", "a\\b", "\u00e4\u65e5", "a\nb", "a\x00b", "\U0010ffff"]
    kv.write({key: key.encode() for key in keys})
    assert kv.get_many(keys) == [key.encode() for key in keys]
    assert dict(kv.scan("")) == {key: key.encode() for key in keys}


def test_thousands_of_keys_go_in_one_call(kv: Kv) -> None:
    keys = [f"item:{number}" for number in range(2_300)]
    kv.write({key: key.encode() for key in keys})
    assert kv.get_many(keys) == [key.encode() for key in keys]
    kv.write({}, deletes=keys[:1_700])
    assert [value is None for value in kv.get_many(keys)] == [number < 1_700 for number in range(2_300)]


def test_a_scan_yields_each_key_of_the_prefix_once(kv: Kv) -> None:
    kv.write({f"wait:{number}": b"%d" % number for number in range(1_234)} | {"wait": b"x", "waiu": b"y", "vait:1": b"z"})
    found = list(kv.scan("wait:"))
    assert len(found) == 1_234
    assert dict(found) == {f"wait:{number}": b"%d" % number for number in range(1_234)}
    assert sorted(key for key, _ in kv.scan("wai")) == sorted([*dict(found), "wait", "waiu"])
    assert list(kv.scan("nothing")) == []


@pytest.mark.parametrize("prefix", ["a*", "a?", "[a]", "a\\", "^a", "\u00e4", "a\xff", "\U0010ffff"])
def test_a_prefix_means_itself_not_a_pattern(kv: Kv, prefix: str) -> None:
    others = ["ab", "a", "b", "aab", "a\xfe", "\u00e5"]
    kv.write(dict.fromkeys([prefix, prefix + "x", prefix + "\U0010ffff", *others], b"v"))
    assert sorted(key for key, _ in kv.scan(prefix)) == sorted([prefix, prefix + "x", prefix + "\U0010ffff"])


def test_writing_during_a_scan_disturbs_neither(kv: Kv) -> None:
    kv.write({f"old:{number}": b"1" for number in range(1_100)})
    seen = []
    for number, (key, _) in enumerate(kv.scan("old:")):
        seen.append(key)
        kv.write({f"new:{number}": b"2"}, deletes=[key])
    assert sorted(seen) == sorted(f"old:{number}" for number in range(1_100))
    assert sum(1 for _ in kv.scan("new:")) == 1_100
    assert list(kv.scan("old:")) == []


def test_threads_write_without_loss(kv: Kv, work_factor: int) -> None:
    count = 50 * work_factor

    def write(name: int) -> None:
        for number in range(count):
            kv.write({f"{name}:{number}": b"%d" % number}, deletes=[f"{name}:{number - 1}"])

    threads = [threading.Thread(target=write, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert dict(kv.scan("")) == {f"{name}:{count - 1}": b"%d" % (count - 1) for name in range(4)}


def test_another_handle_sees_a_write(shared_url: str, make_kv: Make) -> None:
    first, second = make_kv(shared_url), make_kv(shared_url)
    first.write({"a": b"1"})
    assert second.get_many(["a"]) == [b"1"]
    second.write({}, deletes=["a"])
    assert first.get_many(["a"]) == [None]


def test_an_acknowledged_write_survives_kill_9_and_is_never_half_there(shared_url: str, make_kv: Make) -> None:
    process = subprocess.Popen([sys.executable, "-c", WRITER, shared_url], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process:
        for _ in range(20):
            process.stdout.readline()
        process.kill()
        lines = process.stdout.read().splitlines(keepends=True)  # with what the text layer has read ahead
    acknowledged = 20 + sum(line.endswith("\n") for line in lines)
    left, right = make_kv(shared_url).get_many(["left", "right"])
    assert left is not None and left == right
    assert int(left) in (acknowledged, acknowledged + 1)


def test_a_write_that_expects_other_values_writes_nothing(kv: Kv) -> None:
    kv.write({"owner": b"me", "a": b"1"})
    kv.write({"a": b"2", "b": b"3"}, expect={"owner": b"me"})
    for expect in ({"owner": b"you"}, {"owner": b"me", "absent": b""}):
        with pytest.raises(Fenced, match=r"must be '.*' in the store, got "):
            kv.write({"a": b"4"}, ["b"], expect=expect)
    assert kv.get_many(["a", "b"]) == [b"2", b"3"]
    kv.write({"owner": b"you"}, ["a"], expect={"owner": b"me"})
    assert kv.get_many(["owner", "a"]) == [b"you", None]


def test_a_write_may_expect_that_a_key_is_absent(kv: Kv) -> None:
    kv.write({"owner": b"me"}, expect={"owner": None})
    with pytest.raises(Fenced, match=r"must be None in the store, got 'me'"):
        kv.write({"owner": b"you"}, expect={"owner": None})
    assert kv.get_many(["owner"]) == [b"me"]
