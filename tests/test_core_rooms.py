"""The core's rooms include downward only, each kind of file includes what its kind may, and files stay short."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

CORE = Path(__file__).parents[1] / "monolith_py" / "core"
NATIVE_TESTS = Path(__file__).parent / "cpp"
FILES = sorted(path for path in CORE.rglob("*") if path.suffix in (".hpp", ".cpp"))

# The rooms in order, and those below that each may include besides itself.
ROOMS = {
    "memory": set(),
    "bytes": set(),
    "index": {"memory"},
    "kernels": {"index"},
    "table": {"kernels", "index", "bytes", "memory"},
    "snapshot": {"table", "kernels", "index", "bytes", "memory"},
    "replica": {"table", "kernels", "index", "bytes", "memory"},
    "tower": {"kernels", "memory"},
    "joiner": {"index", "bytes"},
    "codec": {"joiner"},
    "ranking": {"codec", "joiner", "tower", "replica", "table", "kernels", "index", "bytes", "memory"},
    "front": {"ranking", "replica", "table", "kernels", "index", "bytes", "memory"},
    "bindings": {"front", "ranking", "codec", "joiner", "tower", "replica", "snapshot", "table", "kernels", "index", "bytes", "memory"},
}
KERNELS_INL = "kernels/per_target/kernels-inl.hpp"
MAX_LINES = 300  # a longer file gives its reason in its first lines: "Longer than 300 lines: ..."


def includes(path: Path) -> Iterator[str]:
    """Yield the paths, as written, that a file includes."""
    for match in re.finditer(r'^\s*#\s*include\s+(?:"([^"]+)"|<([^>]+)>)', path.read_text(), re.MULTILINE):
        yield match[1] or match[2]


def name_of(path: Path) -> str:
    return path.relative_to(CORE).as_posix()


def own_includes(path: Path) -> list[str]:
    """Return the included files of the core."""
    return [name for name in includes(path) if (CORE / name).is_file()]


def test_every_file_lies_in_a_room() -> None:
    assert {name_of(path).split("/")[0] for path in FILES} == set(ROOMS)


def test_files_of_the_core_are_included_by_their_path_from_its_root() -> None:
    wrong = [(name_of(path), name) for path in FILES for name in includes(path) if "/" not in name and (path.parent / name).is_file()]
    assert not wrong


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_includes_only_rooms_below_it(room: str) -> None:
    order = list(ROOMS)
    assert all(order.index(below) < order.index(room) for below in ROOMS[room])
    allowed = ROOMS[room] | {room}
    wrong = [
        (name_of(path), name)
        for path in FILES
        if name_of(path).startswith(f"{room}/")
        for name in own_includes(path)
        if name.split("/")[0] not in allowed
    ]
    assert not wrong


def test_files_do_not_include_each_other_in_a_circle() -> None:
    left = {name_of(path): set(own_includes(path)) for path in FILES}
    while free := [name for name, needed in left.items() if not needed & left.keys()]:
        for name in free:
            del left[name]
    assert not left


def test_only_bindings_know_python() -> None:
    python = [name_of(path) for path in FILES if any(name.startswith(("nanobind", "Python.h")) for name in includes(path))]
    assert python
    assert all(name.startswith("bindings/") for name in python)


def test_headers_of_one_target_are_included_only_by_each_other() -> None:
    wrong = [
        (name_of(path), name)
        for path in FILES
        for name in own_includes(path)
        if name.endswith("-inl.hpp") and not name_of(path).startswith("kernels/per_target/") and name != KERNELS_INL
    ]
    assert not wrong
    assert all(name_of(path).endswith("-inl.hpp") for path in (CORE / "kernels" / "per_target").iterdir())


def test_sources_of_one_target_include_only_its_kernels() -> None:
    targets = [path for path in FILES if path.parent == CORE / "kernels" / "targets"]
    assert targets
    assert all(list(includes(path)) == [KERNELS_INL] for path in targets)
    assert {name_of(path) for path in FILES if KERNELS_INL in includes(path)} == {name_of(path) for path in targets}


def test_sources_compiled_for_amx_include_only_their_own_headers() -> None:
    # An inline function of a shared header, emitted with AVX-512 here, could be linked into code for every machine.
    listed = re.search(r"set\(AMX_SOURCES ([^)]+)\)", (CORE / "kernels" / "kernels.cmake").read_text())
    assert listed
    for name in listed[1].split():
        assert own_includes(CORE / f"{name}.cpp") == ["tower/amx/tile.hpp"]
    assert own_includes(CORE / "tower/amx/tile.hpp") == ["tower/amx/engine.hpp"]
    assert own_includes(CORE / "tower/amx/engine.hpp") == []


@pytest.mark.parametrize("folder", [CORE, NATIVE_TESTS], ids=["core", "tests"])
def test_a_file_is_at_most_300_lines_or_says_why(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            lines = path.read_text().splitlines()
            assert len(lines) <= MAX_LINES or "Longer than 300 lines: " in "\n".join(lines[:10]), path
