"""TLS end point in front of a server that has none: decrypts and passes on."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from pathlib import Path

_BUFFER_BYTES = 1 << 16


class TlsFront:
    """TLS server on a free port of this machine, before the Unix socket `target`; demands a client certificate of `authority`."""

    def __init__(self, target: str, certificate: Path, key: Path, authority: Path) -> None:
        self._target = target
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate, key)
        self._context.load_verify_locations(authority)
        self._context.verify_mode = ssl.CERT_REQUIRED
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        # A close alone leaves the accept waiting.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, plain: socket.socket) -> None:
        """Serve one connection with blocking reads: a thread of its own passes the answers on."""
        client = self._context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as server, client:
            try:
                client.do_handshake()
            except ssl.SSLError:
                # The alert for a client without a certificate is on its way: a close with unread bytes would reset the connection.
                _end(client)
                return
            server.connect(self._target)
            answers = threading.Thread(target=_pump, args=(server, client), daemon=True)
            answers.start()
            _pump(client, server)
            answers.join()


def _end(client: ssl.SSLSocket) -> None:
    """Send the end of the stream, and read until the client closes."""
    with socket.socket(fileno=client.detach()) as plain:
        plain.shutdown(socket.SHUT_WR)
        while plain.recv(_BUFFER_BYTES):
            pass


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while value := source.recv(_BUFFER_BYTES):
            target.sendall(value)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)
