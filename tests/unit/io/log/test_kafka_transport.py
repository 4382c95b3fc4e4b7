"""kafka-python's connection with our repairs hands on every byte that a socket receives, and reads responses with few copies."""

from __future__ import annotations

import socket
from typing import Any

import numpy as np
import pytest
from kafka.errors import KafkaConnectionError
from kafka.net.transport import KafkaTCPTransport
from kafka.protocol.frame import KafkaBytes

from monolith_py.io.log.kafka_transport import repair


class Parser:
    """State of kafka-python's parser of responses: the response that is being received."""

    def __init__(self, num_bytes: int) -> None:
        self._receiving, self._rbuffer = True, KafkaBytes(num_bytes)


class Connection:
    def __init__(self, num_bytes: int) -> None:
        self.parser = Parser(num_bytes)


@pytest.fixture
def pair() -> Any:
    repair()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


def receive_all(transport: Any, frame: KafkaBytes) -> Exception | None:
    """Receive until an error or the last byte, as kafka-python's loop does; return the error."""
    while frame.tell() < len(frame):
        data, error = transport._sock_recv()
        if error is not None:
            return error
        frame.write(data)
    return None


@pytest.mark.parametrize("num_bytes", [1, 100, 1 << 16, (1 << 16) + 1, (1 << 16) + 2, 150_000])
def test_a_response_of_any_size_arrives_whole(pair: Any, num_bytes: int) -> None:
    ours, theirs = pair
    connection, sent = Connection(num_bytes), np.random.default_rng(0).bytes(num_bytes)
    transport = KafkaTCPTransport(None, ours)
    transport.set_protocol(connection)
    theirs.setblocking(False)
    assert theirs.send(sent) == num_bytes
    frame = connection.parser._rbuffer
    assert receive_all(transport, frame) is None and bytes(frame) == sent
    assert transport._sock_recv() == (b"", None)
    theirs.close()
    assert "socket disconnected" in str(transport._sock_recv()[1])


def test_a_connection_that_ends_within_a_response_is_lost(pair: Any) -> None:
    ours, theirs = pair
    connection = Connection(200_000)
    transport = KafkaTCPTransport(None, ours)
    transport.set_protocol(connection)
    theirs.sendall(b"x" * 1000)
    theirs.close()
    assert "socket disconnected" in str(receive_all(transport, connection.parser._rbuffer))
    assert connection.parser._rbuffer.tell() == 1000


def test_a_socket_that_was_closed_meanwhile_is_a_lost_connection(pair: Any) -> None:
    transport = KafkaTCPTransport(None, None)
    transport.set_protocol(Connection(200_000))
    data, error = transport._sock_recv()
    assert data == b"" and isinstance(error, KafkaConnectionError)


def test_reads_of_a_response_are_those_without_the_repair(pair: Any) -> None:
    texts = []
    for read in (KafkaBytes.read, KafkaBytes.read.__wrapped__):  # type: ignore[attr-defined]  # of functools.wraps
        frame = KafkaBytes(10)
        frame.write(b"0123456789")
        frame.seek(2)
        texts.append([read(frame, 3), frame.tell(), read(frame, 0), read(frame), frame.tell(), read(frame, 5), frame.tell()])
    assert texts[0] == texts[1] == [b"234", 5, b"", b"56789", 10, b"", 10]
