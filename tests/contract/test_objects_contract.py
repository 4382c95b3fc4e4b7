"""The contract of Objects, run over each implementation."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from monolith_py.config import ObjectsConfig
from monolith_py.errors import ConfigError, ObjectError, ObjectMissing
from monolith_py.io.objects import FolderObjects, Objects, open_objects
from tests.s3_server import S3Server, s3_server


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as server:
        server.make_bucket("bucket")
        yield server


@pytest.fixture(params=["folder", "s3"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    if request.param == "folder":
        return FolderObjects(tmp_path / "objects")
    server: S3Server = request.getfixturevalue("server")
    return open_objects(f"s3://bucket/{secrets.token_hex(4)}/shop", ObjectsConfig(endpoint=server.endpoint, region="us-east-1"))


def test_what_is_written_is_listed_and_read(objects: Objects) -> None:
    assert objects.list() == {}
    objects.write("a/one", b"1")
    objects.write("a/b/two", b"22")
    objects.write("ab", b"")
    assert {key: info.size for key, info in objects.list().items()} == {"a/one": 1, "a/b/two": 2, "ab": 0}
    assert set(objects.list("a/")) == {"a/one", "a/b/two"}
    assert set(objects.list("a/b/")) == {"a/b/two"}
    assert objects.list("none/") == {}
    assert (objects.read("a/b/two"), objects.read("ab")) == (b"22", b"")


def test_a_second_write_replaces_the_first(objects: Objects) -> None:
    objects.write("a", b"first")
    objects.write("a", b"second")
    assert objects.read("a") == b"second" and objects.list()["a"].size == 6


def test_deleted_objects_are_gone_and_absent_ones_are_skipped(objects: Objects) -> None:
    objects.write("a/one", b"1")
    objects.write("a/two", b"2")
    objects.delete(["a/one", "a/none", "none"])
    assert set(objects.list()) == {"a/two"}
    objects.delete(["a/two"])
    assert objects.list() == {}
    objects.write("a/two", b"again")
    assert objects.read("a/two") == b"again"


def test_all_below_a_prefix_is_deleted_and_nothing_beside_it(objects: Objects) -> None:
    for key in ("a/one", "a/b/two", "ab/one", "b"):
        objects.write(key, b"1")
    objects.delete_below("a/")
    objects.delete_below("none/")
    assert set(objects.list()) == {"ab/one", "b"}
    objects.write("a/one", b"again")
    assert objects.read("a/one") == b"again"


def test_a_folder_that_was_deleted_leaves_no_empty_object(server: S3Server) -> None:
    """Arrow writes one for the folder of each object that it deletes; a list of a year of checkpoints would take minutes."""
    prefix = secrets.token_hex(4)
    objects = open_objects(f"s3://bucket/{prefix}/shop", ObjectsConfig(endpoint=server.endpoint, region="us-east-1"))
    for key in ("step-1/manifest.json", "step-1/tables/a", "leases/step-1/reader"):
        objects.write(key, b"1")
    objects.delete(["step-1/manifest.json", "leases/step-1/reader"])
    for folder in ("step-1/", "leases/step-1/"):
        objects.delete_below(folder)
    assert all("step-1" not in key for key in server.keys("bucket", prefix))


def test_an_object_is_written_while_others_delete_its_folder(objects: Objects) -> None:
    with ThreadPoolExecutor(2) as pool:

        def write_and_delete(name: str) -> None:
            for _ in range(300 if isinstance(objects, FolderObjects) else 10):
                objects.write(f"a/b/{name}", b"1")
                assert objects.read(f"a/b/{name}") == b"1"
                objects.delete([f"a/b/{name}"])

        list(pool.map(write_and_delete, ("one", "two")))
    assert objects.list() == {}


def test_a_folder_is_deleted_while_others_write_to_it_and_delete_it(objects: Objects) -> None:
    num = 300 if isinstance(objects, FolderObjects) else 5

    def write(name: str) -> None:
        for number in range(num):
            objects.write(f"a/{name}{number % 7}", b"1")

    def delete() -> None:
        for _ in range(num):
            objects.delete_below("a/")

    with ThreadPoolExecutor(4) as pool:
        for one in [pool.submit(write, "one"), pool.submit(write, "two"), pool.submit(delete), pool.submit(delete)]:
            one.result()
    objects.delete_below("a/")
    assert objects.list() == {}


def test_an_absent_object_is_missing(objects: Objects, tmp_path: Path) -> None:
    with pytest.raises(ObjectMissing):
        objects.read("none")
    with pytest.raises(ObjectMissing):
        objects.download("none", tmp_path / "file")


@pytest.mark.parametrize("size", [0, 1, (5 << 20) + 1, 12 << 20])  # parts of an upload have 5 MB and more
def test_files_come_back_as_they_were(objects: Objects, tmp_path: Path, size: int) -> None:
    content = secrets.token_bytes(size)
    (tmp_path / "file").write_bytes(content)
    objects.upload("folder/file", tmp_path / "file")
    assert objects.list()["folder/file"].size == size
    objects.download("folder/file", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == content


def test_a_bucket_that_is_absent_or_a_server_that_is_away_is_an_error(server: S3Server) -> None:
    config = ObjectsConfig(endpoint=server.endpoint, region="us-east-1")
    for url in ("s3://none", "s3://none/shop"):
        with pytest.raises(ObjectError, match="bucket 'none' must exist"):
            open_objects(url, config).list()
        with pytest.raises(ObjectError):
            open_objects(url, config).write("key", b"")
    away = open_objects("s3://bucket/shop", ObjectsConfig(endpoint="http://127.0.0.1:9", region="us-east-1"))
    with pytest.raises(ObjectError, match="Could not connect"):
        away.list()


@pytest.mark.parametrize("url", ["gs://bucket/shop", "s3://", "file:///shop"])
def test_a_url_of_another_form_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="url of objects must be s3://BUCKET/PREFIX"):
        open_objects(url, ObjectsConfig())
    with pytest.raises(ConfigError, match=r"objects\.endpoint must be http"):
        open_objects("s3://bucket", ObjectsConfig(endpoint="host:9000"))
