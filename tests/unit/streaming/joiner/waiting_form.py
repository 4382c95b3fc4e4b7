"""Stored form of a waiting request of the reference in Kv: the state of the state machine and the encoded impression.

Layout, little-endian: header (version, deadline, time, clock, offset of the impression, number of candidates, of late and of early
actions, length of the impression), then for each candidate item id int64, labels uint64 and status uint8 (one array each), the row of
each late action uint32, each action (offset int64, clock int64, length uint32, bytes), the impression.
"""

from __future__ import annotations

import struct

from monolith_py.errors import WireError
from monolith_py.io.codec import decode_action
from monolith_py.io.codec.impression_view import ImpressionView
from monolith_streaming.joiner.request import LateAction, Request, SeenAction
from monolith_streaming.joiner.waiting import WaitingRequest

_VERSION = 2
_HEADER = struct.Struct("<BqqqqIIII")
_ACTION = struct.Struct("<qqI")


def encode_waiting(waiting: WaitingRequest, keep_impression: bool) -> bytes:
    """Return the stored form of `waiting`, with or without its impression."""
    request = waiting.request
    impression = waiting.impression.value if keep_impression and waiting.impression else b""
    num_candidates = len(request.statuses)
    header = _HEADER.pack(
        _VERSION,
        request.deadline_ms,
        request.time_ms,
        request.clock_ms,
        waiting.offset,
        num_candidates,
        len(request.late),
        len(request.early),
        len(impression),
    )
    candidates = struct.pack(f"<{num_candidates}q{num_candidates}Q", *request.item_ids, *request.labels) + bytes(request.statuses)
    if not request.late and not request.early:
        return header + candidates + impression
    rows = struct.pack(f"<{len(request.late)}I", *(entry.row for entry in request.late))
    actions = [entry.seen for entry in request.late] + request.early
    packed = b"".join(_ACTION.pack(seen.offset, seen.clock_ms, len(seen.value)) + seen.value for seen in actions)
    return header + candidates + rows + packed + impression


def decode_waiting(request_id: str, value: bytes) -> WaitingRequest:
    """Return the request in `value`.

    Raises:
        WireError: the bytes have another version or are cut.
    """
    try:
        return _decode(request_id, value)
    except (struct.error, WireError) as error:
        raise WireError(f"waiting request {request_id!r} must be whole, got {len(value)} bytes: {error}") from None


def _decode(request_id: str, value: bytes) -> WaitingRequest:
    version, deadline_ms, time_ms, clock_ms, offset, num_candidates, num_late, num_early, length = _HEADER.unpack_from(value)
    if version != _VERSION:
        raise WireError(f"waiting request {request_id!r} must have version {_VERSION}, got {version}")
    at = _HEADER.size
    numbers = struct.unpack_from(f"<{num_candidates}q{num_candidates}Q", value, at)
    at += num_candidates * 16
    statuses = list(value[at : at + num_candidates])
    at += num_candidates
    request = Request(request_id, time_ms, deadline_ms, list(numbers[:num_candidates]), list(numbers[num_candidates:]), statuses)
    request.clock_ms = clock_ms
    if num_late or num_early:
        rows = struct.unpack_from(f"<{num_late}I", value, at)
        at += num_late * 4
        actions = []
        for _ in range(num_late + num_early):
            action_offset, seen_clock_ms, size = _ACTION.unpack_from(value, at)
            at += _ACTION.size
            raw = value[at : at + size]
            actions.append(SeenAction(decode_action(raw), action_offset, raw, seen_clock_ms))
            at += size
        request.late = [LateAction(row, seen) for row, seen in zip(rows, actions[:num_late], strict=True)]
        request.early = actions[num_late:]
    if len(value) != at + length:
        raise WireError(f"waiting request {request_id!r} must have {at + length} bytes, got {len(value)}")
    impression = request.features = ImpressionView(value[at:]) if length else None
    return WaitingRequest(request, offset, impression)
