"""Repairs of kafka-python: a wrong password is not tried until the bootstrap times out, and a fetch is not copied five times.

A broker sends the refusal of a password and closes the connection. kafka-python 3.0.12

1. drops what it has received when the end of the connection is read in the same turn, so it sees a connection that was lost,
2. keeps the refusal to itself when it does see it: `initialize` does not raise, so the manager that would stop at once goes on,
3. logs its settings and each request at DEBUG, the password included,
4. reads 4 KiB in each call of the system, and copies each byte of a fetch five times: 2.5 ns of CPU a byte, 0.7 ns with the repair.

findings/kafka_python_retries_a_wrong_password.sh shows the first three. The repairs go in once for the process. A release without these
private methods is left as it is, and 4 mends no other release than 3.0.12: a wrong byte in a fetch would cost more than the time.
"""

from __future__ import annotations

import functools
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import kafka
from kafka.errors import KafkaConnectionError, SaslAuthenticationFailedError
from kafka.net.connection import KafkaConnection
from kafka.net.transport import KafkaSSLTransport, KafkaTCPTransport
from kafka.protocol.frame import KafkaBytes

_Received = tuple[bytes, Exception | None]
_Receive = Callable[[Any], _Received]
# kafka-python whose receiving is known byte by byte.
_RELEASE = "3.0.12"
# Bytes of one call of the system. The rest of a longer response is received where it stays, at least so many bytes at a time: the
# connection's loop takes 100 us for each time.
_RECEIVE_BYTES = 1 << 16
_WAITED_BYTES = 1 << 18


def repair() -> None:
    """Replace the methods of 1, 2 and 4, unless that was done."""
    receiving = ((KafkaTCPTransport, "_sock_recv", _in_place), (KafkaBytes, "read", _copied_once))
    refusals = (
        (KafkaTCPTransport, "_sock_recv", _data_first),
        (KafkaSSLTransport, "_sock_recv", _data_first),
        (KafkaConnection, "initialize", _raising),
    )
    for kind, name, mended in (*(receiving if kafka.__version__ == _RELEASE else ()), *refusals):
        method = vars(kind).get(name)
        if method is not None and not hasattr(method, "__wrapped__"):
            setattr(kind, name, mended(method))


def hide_passwords() -> None:
    """Keep lines below INFO of kafka-python out of the log, at every level of our own."""
    logger = logging.getLogger("kafka")
    logger.setLevel(max(logger.getEffectiveLevel(), logging.INFO))


def _data_first(receive: _Receive) -> _Receive:
    @functools.wraps(receive)
    def received(self: Any) -> _Received:
        data, error = receive(self)
        return (data, None) if data else (data, error)  # the next call finds the same end

    return received


def _in_place(receive: _Receive) -> _Receive:
    @functools.wraps(receive)
    def received(self: Any) -> _Received:
        try:
            data = _receive(self._sock, _frame_of(self._protocol))
        except (BlockingIOError, InterruptedError):
            return b"", None
        except Exception as error:  # also of a socket that was closed meanwhile, which is None then
            return b"", KafkaConnectionError(error)
        return (b"", KafkaConnectionError("socket disconnected")) if data == b"" else (data or b"", None)

    return received


def _frame_of(protocol: Any) -> KafkaBytes | None:
    """Return the response that a connection is receiving, if many of its bytes are still to come."""
    parser = getattr(protocol, "parser", None)
    frame = getattr(parser, "_rbuffer", None) if getattr(parser, "_receiving", False) else None
    return frame if isinstance(frame, KafkaBytes) and len(frame) - frame.tell() > _RECEIVE_BYTES else None


def _receive(sock: Any, frame: KafkaBytes | None) -> bytes | None:
    """Return bytes from a socket; b"" at its end, None if they went into `frame`, all but its last, which the parser waits for."""
    if frame is None:
        return bytes(sock.recv(_RECEIVE_BYTES))
    with memoryview(frame) as whole, whole[frame.tell() : -1] as rest:
        num_bytes: int = sock.recv_into(rest)
    frame.seek(frame.tell() + num_bytes)
    # The socket is ready once it has the number below, its end included; the kernel bounds that by its buffer.
    left = len(frame) - frame.tell()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, min(left, _WAITED_BYTES) if left > _RECEIVE_BYTES else 1)
    return None if num_bytes else b""


def _copied_once(read: Callable[..., bytes]) -> Callable[..., bytes]:
    @functools.wraps(read)
    def copied(self: Any, nbytes: int | None = None) -> bytes:
        start = self.tell()
        stop = len(self) if nbytes is None else min(start + nbytes, len(self))
        self.seek(stop)
        with memoryview(self) as whole:
            return bytes(whole[start:stop])

    return copied


def _raising(initialize: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    @functools.wraps(initialize)
    async def initialized(self: Any, *arguments: Any, **named: Any) -> None:
        await initialize(self, *arguments, **named)
        error = self._init_future.exception
        if isinstance(error, SaslAuthenticationFailedError):
            raise error

    return initialized
