"""A snapshot that no table wrote, with right checksums, is refused by name and changes nothing; tests/cpp/fuzz_snapshot.cpp tries more."""

from __future__ import annotations

import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from monolith_py.errors import CheckpointError
from monolith_py.table import Adam, Admission, EmbeddingTable, read_settings

HEAD = "<4sIIIQQQ"  # magic, tag, shard_id, crc, entries, rows, bytes
HEADER, ENTRIES, STATE, END = 1, 2, 3, 4
SPLIT = 20_000  # so many fids split the map into 256 shards, a chunk each
TABLE = [0 for _ in range(256)]
for _index in range(256):
    _value = _index
    for _ in range(8):
        _value = (_value >> 1) ^ (0x82F63B78 if _value & 1 else 0)
    TABLE[_index] = _value


@dataclass
class Chunk:
    tag: int
    shard_id: int
    num_entries: int
    num_rows: int
    payload: bytearray


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def read(path: Path) -> list[Chunk]:
    data, at, chunks = path.read_bytes(), 0, []
    while at < len(data):
        _, tag, shard_id, _, num_entries, num_rows, size = struct.unpack_from(HEAD, data, at)
        at += struct.calcsize(HEAD)
        chunks.append(Chunk(tag, shard_id, num_entries, num_rows, bytearray(data[at : at + size])))
        at += size
    return chunks


def write(path: Path, chunks: list[Chunk]) -> None:
    with path.open("wb") as file:
        for place, chunk in enumerate(chunks):
            num_entries = place if chunk.tag == END else chunk.num_entries
            numbers = (num_entries, chunk.num_rows, len(chunk.payload))
            unsigned = struct.pack(HEAD, b"MNLT", chunk.tag, chunk.shard_id, 0, *numbers)
            crc = crc32c(unsigned + bytes(chunk.payload))
            file.write(struct.pack(HEAD, b"MNLT", chunk.tag, chunk.shard_id, crc, *numbers) + chunk.payload)


def make_table() -> EmbeddingTable:
    return EmbeddingTable(4, Adam(), admit_after=2, admission=Admission("sketch", 1 << 14), ttl_s=1_000)


def saved(path: Path, num_fids: int = 5) -> list[Chunk]:
    table = make_table()
    table.drain("replicas")
    table.find_or_insert(np.repeat(np.arange(num_fids), 2), 0)
    table.save(path)
    return read(path)


def refuse(path: Path, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        EmbeddingTable.restore(path)
    table = make_table()
    before = table.stats()
    with pytest.raises(CheckpointError, match=message):
        table.restore_from(path)
    assert table.stats() == before and not table.consumers()
    table.find_or_insert([1, 1], 0)
    assert len(table) == 1


def test_a_snapshot_written_by_this_test_is_taken(tmp_path: Path) -> None:
    chunks = saved(tmp_path / "t")
    write(tmp_path / "u", chunks)
    assert (tmp_path / "u").read_bytes() == (tmp_path / "t").read_bytes()


# Place in the header, struct format, value, and field named.
FIELDS = [
    (0, "I", 3, "version must be 2, got 3"),
    (4, "Q", 0, "id of the header is out of range"),
    (28, "I", 4, "admission of the header is out of range"),
    (32, "I", 0, "admit_after of the header is out of range"),
    (36, "Q", 1 << 40, "sketch_bytes of the header is out of range"),
    (36, "Q", 1 << 62, "sketch_bytes of the header is out of range"),
    (44, "q", -1, "sketch_window_s of the header is out of range"),
    (52, "q", 1 << 41, "ttl_s of the header is out of range"),
    (60, "I", 4, "eviction of the header is out of range"),
    (60, "I", 3, "half_life_s of the header is out of range"),  # "score" without a half-life
    (80, "Q", 1 << 32, "damaged: expected 4294967296 items"),
    (88, "Q", 1 << 62, "damaged: expected 4611686018427387904 items"),
    (103, "I", 0, "dim of the header is out of range"),
    (103, "I", 8, "the size of a chunk is not that of its entries|dim expected 4, got 8"),
    (103, "I", 1 << 30, "dim of the header is out of range"),
    (107, "I", 77, "optimizer of the header is out of range"),
    (111, "f", np.nan, "a hyperparameter of the header is out of range"),
    (115, "f", np.inf, "a hyperparameter of the header is out of range"),
    (123, "f", 1.0, "a hyperparameter of the header is out of range"),  # beta1
    (163, "I", 5, "initializer of the header is out of range"),
    (167, "f", np.inf, "init_scale of the header is out of range"),
    (171, "I", 4, "encoding of the header is out of range"),
]


@pytest.mark.parametrize(("at", "form", "value", "message"), FIELDS, ids=[f"{at}-{value}" for at, _, value, _ in FIELDS])
def test_a_field_of_the_header_out_of_its_range_is_named(at: int, form: str, value: float, message: str, tmp_path: Path) -> None:
    chunks = saved(tmp_path / "t")
    struct.pack_into(f"<{form}", chunks[0].payload, at, value)
    write(tmp_path / "t", chunks)
    refuse(tmp_path / "t", message)


def entry(at: int, form: str, value: int) -> Callable[[list[Chunk]], None]:
    """Return a change of a field of the first entry: fid, seen, count, kind."""
    return lambda chunks: struct.pack_into(f"<{form}", chunks[1].payload, at, value)


def number(name: str, value: int) -> Callable[[list[Chunk]], None]:
    return lambda chunks: setattr(chunks[1], name, value)


def state(at: int, form: str, value: int) -> Callable[[list[Chunk]], None]:
    return lambda chunks: struct.pack_into(f"<{form}", chunks[-2].payload, at, value)


CHANGES: dict[str, tuple[Callable[[list[Chunk]], None], str]] = {
    "fewer rows announced": (number("num_rows", 1), "the size of a chunk is not that of its entries"),
    "no entries announced": (number("num_entries", 0), "the size of a chunk is not that of its entries"),
    "rows without bytes": (number("num_rows", 1 << 40), "the size of a chunk is not that of its entries"),
    "more entries than 64 bits of bytes": (number("num_entries", (1 << 63) - 1), "the size of a chunk is not that of its entries"),
    "a kind that is none": (entry(18, "H", 3), "an entry has no known kind"),
    "a row as a candidate": (entry(18, "H", 1), "an entry"),
    "a time that overflows": (entry(8, "q", (1 << 63) - 1), "the time of an entry is out of range"),
    "a time of long ago": (entry(8, "q", -(1 << 62)), "the time of an entry is out of range"),
    "a shard that is none": (number("shard_id", 300), "an entry is of another shard than its chunk"),
    "a base that overflows": (state(0, "q", -(1 << 63)), "the time of the state is out of range"),
    "a flag of 77": (state(8, "B", 77), "a flag must be 0 or 1"),
    "no state": (lambda chunks: chunks.pop(-2) and None, "no chunk has tag 3"),
    "a state that ends early": (lambda chunks: chunks[-2].payload.pop() and None, "expected 16384 bytes"),
    "a state that goes on": (lambda chunks: chunks[-2].payload.extend(b"1234"), "expected the end, got 4 more bytes"),
    "a header that goes on": (lambda chunks: chunks[0].payload.extend(b"1234"), "expected the end, got 4 more bytes"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_entries_and_state_that_no_table_wrote_are_refused(name: str, tmp_path: Path) -> None:
    """Too few announced rows ended the process by a segmentation fault."""
    change, message = CHANGES[name]
    chunks = saved(tmp_path / "t")
    change(chunks)
    write(tmp_path / "t", chunks)
    refuse(tmp_path / "t", message)


def test_entries_of_another_shard_than_their_chunk_are_refused(tmp_path: Path) -> None:
    """Chunks of shards load on several threads: two would change one shard at the same time."""
    chunks = saved(tmp_path / "t", SPLIT)
    one, other = chunks[1], chunks[2]
    assert (one.shard_id, other.shard_id) == (0, 1)
    one.payload, other.payload = other.payload, one.payload
    one.num_entries, other.num_entries = other.num_entries, one.num_entries
    one.num_rows, other.num_rows = other.num_rows, one.num_rows
    write(tmp_path / "t", chunks)
    refuse(tmp_path / "t", "an entry is of another shard than its chunk")


@pytest.mark.parametrize("place", range(175))
def test_settings_are_read_or_refused_whatever_the_header_holds(place: int, tmp_path: Path) -> None:
    chunks = saved(tmp_path / "t")
    assert len(chunks[0].payload) == 175
    for value in (0, 0x7F, 0xFF):
        chunks[0].payload[place] = value
        write(tmp_path / "t", chunks)
        for reads in (read_settings, EmbeddingTable.restore):
            with suppress(CheckpointError):
                reads(tmp_path / "t")


@pytest.mark.parametrize("size", [1 << 20, 1 << 40, (1 << 63) - 1, (1 << 64) - 1])
def test_settings_of_a_header_without_an_end_are_refused(size: int, tmp_path: Path) -> None:
    data = bytearray(struct.pack(HEAD, b"MNLT", HEADER, 0, 0, 0, 0, size) + struct.pack("<I", 2) + b"\x01" * 76)
    (tmp_path / "t").write_bytes(data + struct.pack("<QQ", 1, size))
    with pytest.raises(CheckpointError, match="the header cannot be read"):
        read_settings(tmp_path / "t")
