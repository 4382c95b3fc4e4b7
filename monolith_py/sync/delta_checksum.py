"""Checksum of a delta, over the bytes that protos/monolith/v1/parameter_sync.proto defines."""

from __future__ import annotations

import struct

from crc32c import crc32c

from monolith_py.pb import parameter_sync_pb2 as pb


def delta_checksum(message: pb.Delta) -> int:
    """Return the CRC-32C of all fields of `message` but `checksum`."""
    parts = (message.table.encode(), message.trainer.encode(), message.fids, message.rows, message.evicted)
    head = (message.generation, message.seq, message.watermark_ms, message.published_ms, message.dim, message.encoding & 0xFFFFFFFF)
    crc: int = crc32c(struct.pack("<QQqqII5Q", *head, *map(len, parts)))
    for part in parts:
        crc = crc32c(part, crc)
    tail = [
        struct.pack("<Q", len(message.steps)),
        *(struct.pack("<qQq", step.time_ms, step.num_rows, step.event_ms) for step in message.steps),
    ]
    tail += [struct.pack("<I", message.dense.checksum if message.HasField("dense") else 0)]
    parent, digest = message.parent, message.digest
    tail += [struct.pack("<4Q", 1, parent.generation, parent.seq, parent.offset) if message.HasField("parent") else bytes(8)]
    if not message.HasField("digest"):
        return crc32c(b"".join(tail) + bytes(8), crc)
    tail += [struct.pack("<QQI", 1, digest.rows, digest.encoding & 0xFFFFFFFF)]
    tail += [struct.pack("<QI", 1, digest.fingerprint) if digest.HasField("fingerprint") else bytes(8)]
    tail += [struct.pack("<II", digest.dense, digest.dense_encoding & 0xFFFFFFFF)]
    encodings = sorted((name.encode(), encoding) for name, encoding in digest.encodings.items())
    tail += [name + struct.pack("<xI", encoding & 0xFFFFFFFF) for name, encoding in encodings]
    return crc32c(b"".join(tail), crc)
