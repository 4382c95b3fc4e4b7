"""A snapshot goes to the file that its path names: links stay, and what is no regular file is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from monolith_py.errors import CheckpointError
from monolith_py.table import EmbeddingTable, Sgd


@pytest.fixture
def table() -> EmbeddingTable:
    table = EmbeddingTable(4, Sgd())
    table.find_or_insert([1, 2], 0)
    return table


@pytest.mark.parametrize("exists", [True, False], ids=["a file", "no file yet"])
def test_the_target_of_a_link_is_written_and_the_link_stays(table: EmbeddingTable, tmp_path: Path, exists: bool) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "links").mkdir()
    link, second = tmp_path / "links" / "newest", tmp_path / "links" / "t"
    link.symlink_to("../data/t")
    second.symlink_to(link)
    if exists:
        (tmp_path / "data" / "t").write_bytes(b"old")
    table.save(second)
    assert link.is_symlink() and second.is_symlink()
    assert not (tmp_path / "data" / "t").is_symlink() and len(EmbeddingTable.restore(tmp_path / "data" / "t")) == 2
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["data", "links", "newest", "t", "t"]


def test_a_circle_of_links_is_refused(table: EmbeddingTable, tmp_path: Path) -> None:
    (tmp_path / "t").symlink_to(tmp_path / "u")
    (tmp_path / "u").symlink_to(tmp_path / "t")
    with pytest.raises(CheckpointError, match=r"t: Too many levels of symbolic links"):
        table.save(tmp_path / "t")


def test_what_is_no_regular_file_is_refused_and_stays(table: EmbeddingTable, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "null").symlink_to("/dev/null")
    for name, kind in (("folder", "a directory"), ("pipe", "another kind of file"), ("null", "another kind of file")):
        with pytest.raises(CheckpointError, match=f"{name}: must be a regular file or absent, got {kind}"):
            table.save(tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "null", "pipe"]
    table.save(tmp_path / "t")


def test_a_link_in_the_place_of_the_unfinished_file_is_not_followed(table: EmbeddingTable, tmp_path: Path) -> None:
    (tmp_path / "other").write_text("of someone else")
    (tmp_path / "t.tmp").symlink_to(tmp_path / "other")
    with pytest.raises(CheckpointError, match=r"t: Too many levels of symbolic links"):
        table.save(tmp_path / "t")
    assert (tmp_path / "other").read_text() == "of someone else"
