"""A network that holds an append back until after the client has given up, then delivers it: genuine Kafka behind a proxy."""

from __future__ import annotations

import contextlib
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sound_stream import GAP_MS, LEAD, SoundStream
from surroundings import Deployment, now_ms

from monolith_demo.driver.kafka_broker import KafkaBroker, KafkaUnavailable
from monolith_demo.driver.ports import free_ports
from monolith_py.clock import SystemClock
from monolith_py.io import SqliteKv
from monolith_py.io.log.kafka import KafkaLog
from monolith_streaming.joiner.loop import JoinerLoop

NUM_REQUESTS = 120
LARGE_BYTES = 4_000  # of a request that holds examples, not a heartbeat or a look-up


class HoldingProxy:
    """TCP proxy of a server that can keep one large request, also after its client has closed the connection."""

    def __init__(self, port: int, server: tuple[str, int]) -> None:
        self._server = server
        self._listener = socket.create_server(("127.0.0.1", port), reuse_port=False)
        self._released = threading.Event()
        self._next, self.num_held = threading.Semaphore(0), 0
        threading.Thread(target=self._accept, daemon=True).start()

    def hold(self) -> None:
        """Hold back the next large request."""
        self._next.release()

    def release(self) -> None:
        """Deliver what was held back."""
        self._released.set()

    def close(self) -> None:
        self.release()
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError), socket.create_connection(self._server) as server:
            back = threading.Thread(target=self._pump, args=(server, client, False), daemon=True)
            back.start()
            self._pump(client, server, True)
            back.join()

    def _kept(self, source: socket.socket) -> bytes:
        """Read on until the client closes the connection or the proxy is released; return what it sent once released."""
        self.num_held += 1
        kept = b""
        source.settimeout(0.1)
        with contextlib.suppress(ConnectionError):
            while not self._released.is_set():
                with contextlib.suppress(TimeoutError):
                    block = source.recv(1 << 20)
                    kept += block
                    if not block:
                        break
        self._released.wait()
        source.settimeout(None)
        return kept

    def _pump(self, source: socket.socket, target: socket.socket, may_hold: bool) -> None:
        with contextlib.suppress(OSError):
            while block := source.recv(1 << 20):
                if may_hold and len(block) > LARGE_BYTES and self._next.acquire(blocking=False):
                    block += self._kept(source)
                target.sendall(block)
        if may_hold:
            time.sleep(1.0)  # the server reads what was delivered before its connection ends
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def proxied(tmp_path: Path) -> Iterator[tuple[KafkaBroker, HoldingProxy, str]]:
    """A broker whose clients come through a proxy, the proxy, and the URL of the proxy."""
    broker, (port,) = KafkaBroker(tmp_path / "kafka"), free_ports(1)
    try:
        url = broker.start()
    except KafkaUnavailable as error:
        pytest.skip(f"NO KAFKA, so this drill was not run: {error}")
    broker.stop()
    properties = tmp_path / "kafka" / "server.properties"
    address = url.removeprefix("kafka://")
    properties.write_text(
        properties.read_text().replace(f"advertised.listeners=PLAINTEXT://{address}", f"advertised.listeners=PLAINTEXT://127.0.0.1:{port}")
    )
    broker.start()
    host, _, number = address.partition(":")
    proxy = HoldingProxy(port, (host, int(number)))
    yield broker, proxy, f"kafka://127.0.0.1:{port}"
    proxy.close()
    broker.kill()
    shutil.rmtree(tmp_path / "kafka", ignore_errors=True)


@pytest.mark.needs_kafka
@pytest.mark.slow
def test_an_append_that_arrives_after_its_repetition_is_refused(
    proxied: tuple[KafkaBroker, HoldingProxy, str], deploy: Callable[..., Deployment]
) -> None:
    """100 of 200 examples came twice: streams.md, K6."""
    _, proxy, url = proxied
    drill = deploy(log={"url": url})
    stream = SoundStream(drill, now_ms() - (3 * NUM_REQUESTS + LEAD + 200) * GAP_MS)
    log = KafkaLog([url.removeprefix("kafka://")], timeout_s=3.0)
    with contextlib.closing(log), contextlib.closing(SqliteKv(drill.folder / "kv.db")) as kv:
        loop = JoinerLoop(drill.job, log, kv, SystemClock())
        with contextlib.closing(loop):
            loop.start()
            stream.append(NUM_REQUESTS + LEAD)
            join_to_end(loop)
            before = drill.num_records(drill.topics.examples)
            assert before > 0
            stream.append(NUM_REQUESTS)
            proxy.hold()
            join_to_end(loop)  # gives up, opens another producer, looks, appends again
            assert proxy.num_held > 0
            after = drill.num_records(drill.topics.examples)
            proxy.release()
            stream.append(NUM_REQUESTS)
            stream.end()
            join_to_end(loop)
            loop.close_all()
    assert after > before
    assert drill.examples() == stream.expected


def join_to_end(loop: JoinerLoop) -> None:
    ends = loop.ends()
    while not loop.has_reached(ends):
        loop.step()
    loop.commit()
