"""Requests to forget rows, to and from protobuf (protos/monolith/v1/forget.proto)."""

from __future__ import annotations

from monolith_py.data.forgetting import ForgetRequest
from monolith_py.io.codec.messages import parse, serialize
from monolith_py.pb import forget_pb2 as pb


def encode_forget_request(request: ForgetRequest) -> bytes:
    """Return a request as bytes."""
    return serialize(pb.ForgetRequest(feature=request.feature, fids=request.fids, time_ms=request.time_ms))


def decode_forget_request(value: bytes) -> ForgetRequest:
    """Return the request of a record.

    Raises:
        WireError: `value` is no such message.
    """
    message = parse(pb.ForgetRequest(), value)
    return ForgetRequest(message.feature, tuple(message.fids), message.time_ms)
