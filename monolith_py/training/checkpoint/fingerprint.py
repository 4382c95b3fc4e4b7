"""Fingerprints of the files of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from crc32c import crc32c

# Size and CRC-32C of files, by path in the checkpoint.
Fingerprints = Mapping[str, dict[str, int]]

_BLOCK_BYTES = 1 << 22


def fingerprint_of(file: Path) -> dict[str, int]:
    """Return the size and CRC-32C of a file."""
    crc, size = 0, 0
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            crc, size = crc32c(block, crc), size + len(block)
    return {"size": size, "crc32c": crc}
