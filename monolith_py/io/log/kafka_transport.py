"""Repairs of kafka-python, without which a wrong password is tried until the bootstrap times out; and no password in its log lines.

A broker sends the refusal of a password and closes the connection. kafka-python 3.0.12

1. drops what it has received when the end of the connection is read in the same turn, so it sees a connection that was lost,
2. keeps the refusal to itself when it does see it: `initialize` does not raise, so the manager that would stop at once goes on,
3. logs its settings and each request at DEBUG, the password included.

findings/kafka_python_retries_a_wrong_password.sh shows all three. The repairs go in once for the process; a later release without these
private methods is left as it is.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from kafka.errors import SaslAuthenticationFailedError
from kafka.net.connection import KafkaConnection
from kafka.net.transport import KafkaSSLTransport, KafkaTCPTransport

_Receive = Callable[[Any], tuple[bytes, Exception | None]]


def repair() -> None:
    """Replace the methods of 1 and 2, unless that was done."""
    for kind, name, mended in (
        (KafkaTCPTransport, "_sock_recv", _data_first),
        (KafkaSSLTransport, "_sock_recv", _data_first),
        (KafkaConnection, "initialize", _raising),
    ):
        method = vars(kind).get(name)
        if method is not None and not hasattr(method, "__wrapped__"):
            setattr(kind, name, mended(method))


def hide_passwords() -> None:
    """Keep lines below INFO of kafka-python out of the log, at every level of our own."""
    logger = logging.getLogger("kafka")
    logger.setLevel(max(logger.getEffectiveLevel(), logging.INFO))


def _data_first(receive: _Receive) -> _Receive:
    @functools.wraps(receive)
    def received(self: Any) -> tuple[bytes, Exception | None]:
        data, error = receive(self)
        return (data, None) if data else (data, error)  # the next call finds the same end

    return received


def _raising(initialize: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    @functools.wraps(initialize)
    async def initialized(self: Any, *arguments: Any, **named: Any) -> None:
        await initialize(self, *arguments, **named)
        error = self._init_future.exception
        if isinstance(error, SaslAuthenticationFailedError):
            raise error

    return initialized
