"""Beam's job server with an embedded Apache Flink 1.19 cluster, for tests and trials: jars from Maven, a port chosen at the start.

    python -m monolith_demo.driver.flink_job_server FOLDER      start it and print its address; Ctrl-C stops it

Needs Java 17 and Maven (Debian: openjdk-17-jre-headless, maven) and about 1 GB of memory.
"""

from __future__ import annotations

import atexit
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

_POM = Path(__file__).with_name("flink_pom.xml")
_CACHE_NAME = "flink-1.19-beam-2.62.0"
_START_TIMEOUT_S = 180.0  # two busy cores take 4, at a load of 40 ten times as long
# Packages of the JDK that Flink reads by reflection.
_OPENED = [
    "java.lang",
    "java.util",
    "java.nio",
    "sun.nio.ch",
    "java.time",
    "java.lang.reflect",
    "java.util.concurrent",
    "java.net",
    "java.io",
]
_JAVA_FLAGS = ("-Xmx1g", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", *(f"--add-opens=java.base/{name}=ALL-UNNAMED" for name in _OPENED))


class FlinkJobServer:
    """One job server, its log and artifacts in `folder`.

    `pipeline_args` are options of a pipeline whose workers are threads of the process that submits it.
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder).absolute()
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0

    @property
    def pipeline_args(self) -> tuple[str, ...]:
        """Options of Beam for a pipeline on this server."""
        address = f"127.0.0.1:{self._port}"
        return ("--runner=PortableRunner", f"--job_endpoint={address}", "--environment_type=LOOPBACK", "--parallelism=2")

    def start(self) -> None:
        """Start the server and wait until it accepts connections.

        Raises:
            JavaUnavailable: Java or Maven is missing, or the server failed; the message has the end of its log.
        """
        libraries = resolve_jars(_POM, _CACHE_NAME)
        (self._port,) = free_ports(1)
        self._folder.mkdir(parents=True, exist_ok=True)
        arguments = ["--job-host=127.0.0.1", f"--job-port={self._port}", "--artifact-port=0", "--expansion-port=0"]
        command = ["java", *_JAVA_FLAGS, "-cp", f"{libraries}/*", "org.apache.beam.runners.flink.FlinkJobServerDriver", *arguments]
        with (self._folder / "server.log").open("ab") as output:
            self._process = subprocess.Popen(
                [*command, f"--artifacts-dir={self._folder / 'artifacts'}"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        atexit.register(self.kill)
        self._wait_until_listening()

    def kill(self) -> None:
        """Kill the server, if it runs."""
        process, self._process = self._process, None
        atexit.unregister(self.kill)
        if process is not None:
            process.kill()
            process.wait()
            shutil.rmtree(self._folder / "artifacts", ignore_errors=True)

    def __enter__(self) -> FlinkJobServer:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.kill()

    def _wait_until_listening(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self._port), timeout=1.0).close()
                return
            except OSError:
                time.sleep(0.05)
        self.kill()
        lines = (self._folder / "server.log").read_text(errors="replace").splitlines()
        raise JavaUnavailable("the job server does not listen; its last lines:\n" + "\n".join(lines[-15:]))


def main() -> None:
    """Run a job server until SIGINT or SIGTERM."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m monolith_demo.driver.flink_job_server FOLDER")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with FlinkJobServer(sys.argv[1]) as server:
            print(" ".join(server.pipeline_args), flush=True)
            signal.pause()
    except JavaUnavailable as error:
        sys.exit(f"no Flink: {error}")
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
