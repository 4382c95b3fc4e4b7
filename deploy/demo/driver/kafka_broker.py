"""Apache Kafka broker (single node, KRaft) for tests and the demo: jars from Maven, ports chosen at the start.

    python -m monolith_demo.driver.kafka_broker DATA_DIR      start a broker and print its URL; Ctrl-C stops it

Needs Java 17 and Maven (Debian: openjdk-17-jre-headless, maven). Not for production: it keeps a single copy of all data.
"""

from __future__ import annotations

import atexit
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

from monolith_demo.driver.maven import JavaUnavailable, resolve_jars
from monolith_demo.driver.ports import free_ports

_POM = Path(__file__).with_name("pom.xml")
_START_TIMEOUT_S = 90.0  # a busy machine with two cores takes 10
_STOP_TIMEOUT_S = 30.0
_JAVA_FLAGS = ("-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto")
_CLUSTER_ID = "bW9ub2xpdGgtcHkta3JhZg"

# Records do not expire. After kill -9 a broker needs 14 s to rejoin with the default session timeout
# of 9 s, and 6 s with this one.
_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:{controller_port}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{advertised_port},CONTROLLER://127.0.0.1:{controller_port}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs={data}
auto.create.topics.enable=false
log.retention.ms=-1
message.max.bytes=16777216
offsets.topic.num.partitions=4
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=400
"""


class KafkaUnavailable(Exception):
    """Java or Maven is missing, or the broker could not be downloaded or started."""


class KafkaBroker:
    """One broker with its data in `data_dir`; ports and data survive `stop`, `kill` and `start`.

    `advertised_port`: port that clients are told, of a proxy in front of the broker; by default the broker's own.
    `properties`: more lines of its configuration, which override its own; {port}, {controller_port} and {data} are filled in.
    """

    def __init__(self, data_dir: str | Path, properties: str = "", *, advertised_port: int | None = None) -> None:
        self._folder, self._advertised_port = Path(data_dir).absolute(), advertised_port
        self._properties = _PROPERTIES + properties
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0

    @property
    def url(self) -> str:
        """Log URL of the broker, `kafka://127.0.0.1:PORT`; valid after the first `start`."""
        return f"kafka://127.0.0.1:{self._port}"

    def start(self) -> str:
        """Start the broker, wait until it accepts connections, and return its URL.

        Raises:
            KafkaUnavailable: Java or Maven is missing, or the broker failed; the message has the end of its log.
        """
        assert self._process is None, "the broker is running"
        libraries = resolve_libraries()
        properties = self._folder / "server.properties"
        if not self._port:
            self._port, controller_port = free_ports(2)
            shutil.rmtree(self._folder / "data", ignore_errors=True)
            self._folder.mkdir(parents=True, exist_ok=True)
            ports = {"port": self._port, "controller_port": controller_port, "advertised_port": self._advertised_port or self._port}
            properties.write_text(self._properties.format(**ports, data=self._folder / "data"))
            _run_java(libraries, "kafka.tools.StorageTool", "format", "--standalone", "-t", _CLUSTER_ID, "-c", str(properties))
        with (self._folder / "broker.log").open("ab") as output:
            self._process = subprocess.Popen(
                ["java", *_JAVA_FLAGS, "-cp", f"{libraries}/*", "kafka.Kafka", str(properties)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        atexit.register(self.kill)  # no broker survives an exception in a test or the demo
        self._wait_until_listening()
        return self.url

    def stop(self) -> None:
        """Stop the broker cleanly, if it runs."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the broker with SIGKILL, if it runs."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Let the running broker stand still: it takes what is sent, and answers nothing until `resume`."""
        assert self._process is not None, "the broker is not running"
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a broker that stands still go on."""
        assert self._process is not None, "the broker is not running"
        self._process.send_signal(signal.SIGCONT)

    def __enter__(self) -> KafkaBroker:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        atexit.unregister(self.kill)
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _wait_until_listening(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            try:
                socket.create_connection(("127.0.0.1", self._port), timeout=1.0).close()
                return
            except OSError:
                time.sleep(0.05)
        self.kill()
        lines = (self._folder / "broker.log").read_text(errors="replace").splitlines()
        raise KafkaUnavailable("the broker does not listen; its last lines:\n" + "\n".join(lines[-15:]))


def resolve_libraries() -> Path:
    """Return the folder with the broker's jars; download them with Maven unless they are cached.

    Raises:
        KafkaUnavailable: Java 17 or Maven is missing, or Maven failed.
    """
    version = re.search(r"<version>([\d.]+\d\.\d+)</version>", _POM.read_text())
    assert version is not None
    try:
        return resolve_jars(_POM, f"kafka-{version[1]}")
    except JavaUnavailable as error:
        raise KafkaUnavailable(str(error)) from None


def _run_java(libraries: Path, *arguments: str) -> None:
    command = ["java", *_JAVA_FLAGS, "-cp", f"{libraries}/*", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_START_TIMEOUT_S)
    if result.returncode:
        raise KafkaUnavailable(f"{' '.join(arguments[:2])} failed:\n" + "\n".join((result.stdout + result.stderr).splitlines()[-15:]))


def main() -> None:
    """Run a broker until Ctrl-C or SIGTERM."""
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        with KafkaBroker(sys.argv[1]) as broker:
            print(broker.url, flush=True)
            signal.pause()
    except KeyboardInterrupt:
        pass
    except KafkaUnavailable as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
