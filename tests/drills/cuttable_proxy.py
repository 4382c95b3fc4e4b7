"""TCP proxy whose connections can be cut or slowed down.

TCP delivers each byte once, so the proxy cannot duplicate what it forwards. Clients do that, which send again: `SoundStream.repeat`.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path

from monolith_demo.driver.kafka_broker import KafkaBroker
from monolith_py.clock import SystemClock

_BUFFER_BYTES = 1 << 16


class CuttableProxy:
    """Proxy on a free port of this machine in front of `target_port`, which may be set later; each block waits for `delay_s`."""

    def __init__(self) -> None:
        self.target_port, self.delay_s, self._clock = 0, 0.0, SystemClock()
        self.port = 0
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self.num_cut = 0
        self.listen()

    def listen(self) -> None:
        """Take connections, after `refuse` on the same port."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def refuse(self) -> None:
        """Reset all connections and refuse new ones, as a machine does whose server is dead."""
        # A close alone leaves the accept waiting.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """Reset all connections; new ones are taken."""
        with self._lock:
            ends, self._open = self._open, set()
        self.num_cut += len(ends) // 2
        for end in ends:
            # Both pumps of a connection wait in a read, which a shutdown ends.
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.refuse()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", self.target_port))
                except OSError:
                    client.close()
                    continue
                with self._lock:
                    self._open |= {client, server}
                for source, target in ((client, server), (server, client)):
                    threading.Thread(target=self._pump, args=(source, target), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while value := source.recv(_BUFFER_BYTES):
                if self.delay_s:
                    self._clock.sleep(self.delay_s)
                target.sendall(value)
        with self._lock:
            self._open -= {source, target}
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)
        # The other pump reads from `target`, and closes it.
        source.close()


class ProxiedBroker(KafkaBroker):
    """Kafka broker whose clients go through `proxy` after their first look-up; while it is dead, connections are refused."""

    def __init__(self, folder: Path, proxy: CuttableProxy) -> None:
        super().__init__(folder, advertised_port=proxy.port)
        self.proxy = proxy
        proxy.refuse()

    def start(self) -> str:
        url = super().start()
        self.proxy.target_port = int(url.rpartition(":")[2])
        self.proxy.listen()
        return url

    def kill(self) -> None:
        self.proxy.refuse()
        super().kill()
