"""A network that holds an append or a commit back until after the client has given up, then delivers it: genuine Kafka behind a proxy."""

from __future__ import annotations

import contextlib
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from sound_stream import GAP_MS, LEAD, SoundStream
from surroundings import Deployment, now_ms, wait_until

from monolith_demo.driver.kafka_broker import KafkaBroker, KafkaUnavailable
from monolith_demo.driver.ports import free_ports
from monolith_py.clock import SystemClock
from monolith_py.errors import LogError
from monolith_py.io import SqliteKv
from monolith_py.io.log.kafka import KafkaLog
from monolith_streaming.joiner.loop import JoinerLoop

NUM_REQUESTS = 120
LARGE_BYTES = 4_000  # of a request that holds examples, not a heartbeat or a look-up
END_TRANSACTION = (26).to_bytes(2, "big")  # api key, after the length


def is_large(request: bytes) -> bool:
    return len(request) > LARGE_BYTES


def ends_transaction(request: bytes) -> bool:
    return request[4:6] == END_TRANSACTION


class HoldingProxy:
    """TCP proxy of a server that can keep one request, also after its client has closed the connection."""

    def __init__(self, port: int, server: tuple[str, int]) -> None:
        self._server = server
        self._listener = socket.create_server(("127.0.0.1", port), reuse_port=False)
        self._released = threading.Event()
        self._next, self._is_meant, self.num_held = threading.Semaphore(0), is_large, 0
        threading.Thread(target=self._accept, daemon=True).start()

    def hold(self, is_meant: Callable[[bytes], bool]) -> None:
        """Hold back the next request of this kind."""
        self._is_meant = is_meant
        self._released.clear()
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
                if may_hold and self._is_meant(block) and self._next.acquire(blocking=False):
                    block += self._kept(source)
                target.sendall(block)
        if may_hold:
            time.sleep(1.0)  # the server reads what was delivered before its connection ends
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[HoldingProxy, str]]:
    """A proxy, through which the clients of a broker come, and its URL."""
    folder, (port,) = tmp_path_factory.mktemp("held"), free_ports(1)
    broker = KafkaBroker(folder / "kafka", advertised_port=port)
    try:
        host, _, number = broker.start().removeprefix("kafka://").partition(":")
    except KafkaUnavailable as error:
        pytest.skip(f"NO KAFKA, so this drill was not run: {error}")
    proxy = HoldingProxy(port, (host, int(number)))
    yield proxy, f"kafka://127.0.0.1:{port}"
    proxy.close()
    broker.kill()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.needs_kafka
@pytest.mark.slow
def test_an_append_that_arrives_after_its_repetition_is_refused(
    proxied: tuple[HoldingProxy, str], deploy: Callable[..., Deployment]
) -> None:
    """100 of 200 examples came twice: streams.md, K6."""
    proxy, url = proxied
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
            proxy.hold(is_large)
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


@pytest.mark.needs_kafka
@pytest.mark.slow
def test_a_commit_that_is_not_answered_ends_in_time_and_is_refused_when_it_arrives_after_all(proxied: tuple[HoldingProxy, str]) -> None:
    """kafka-python's `commit_transaction` waits for ever: the joiner stood still without a word."""
    proxy, url = proxied
    with contextlib.closing(KafkaLog([url.removeprefix("kafka://")], timeout_s=3.0)) as log:
        log.create_topic("committed")
        writer = log.writer("committed", 0, "joiner")
        writer.append([b"before"], time_ms=1)
        held = proxy.num_held
        proxy.hold(ends_transaction)
        with pytest.raises(LogError, match="the transaction must be committed within 3 s"):
            writer.append([b"held"], time_ms=1)
        assert proxy.num_held == held + 1
        writer.settle()  # the broker aborts what was begun
        end = log.end_offset("committed")
        assert [record.value for record in log.read("committed", 0, 0, 10)] == [b"before"]
        assert writer.append([b"held"], time_ms=1) >= end
        proxy.release()
        writer.append([b"after"], time_ms=1)
        # The broker answers a commit before its marker is written.
        wait_until(lambda: [record.value for record in log.read("committed", 0, 0, 10)] == [b"before", b"held", b"after"])
        writer.close()


def join_to_end(loop: JoinerLoop) -> None:
    ends = loop.ends()
    while not loop.has_reached(ends):
        loop.step()
    loop.commit()
