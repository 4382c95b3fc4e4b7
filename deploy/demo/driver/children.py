"""Processes of the demo: start, health check, stop. None survives the driver, not even after SIGKILL of the driver."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

SERVICE = "monolith.v1.Ranking"
_STOP_TIMEOUT_S = 30.0  # a trainer writes a checkpoint first
_START_TIMEOUT_S = 120.0  # a cold start imports torch from disk
_TAIL_LINES = 25
_PR_SET_PDEATHSIG = 1


class ProcessDied(Exception):
    """A process failed or ended early; the message has the end of its log."""


@dataclass
class Child:
    """One process and its log file."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def failure(self, what: str) -> ProcessDied:
        """Return the error "NAME `what`" with the last lines of the log."""
        lines = self.log.read_text(errors="replace").splitlines()[-_TAIL_LINES:]
        return ProcessDied(f"{self.name} {what}; the end of {self.log}:\n" + "\n".join(f"    {line}" for line in lines))


class Children:
    """Processes of one run, each with a log in the folder `logs`; the end of the `with` block stops them."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._running: dict[str, Child] = {}
        logs.mkdir(parents=True, exist_ok=True)

    def start(self, name: str, command: str, config: Path, *flags: str) -> Child:
        """Start `monolith COMMAND --config CONFIG FLAGS` as the process `name`."""
        assert name not in self._running, name
        log = self._logs / f"{name}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "monolith_py.cli", command, "--config", str(config), *flags],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Ctrl-C reaches only the driver, which then stops the processes in order.
                start_new_session=True,
                preexec_fn=_die_with_parent,
                env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
            )
        child = self._running[name] = Child(name, process, log)
        return child

    def check(self) -> None:
        """Check that every started process still runs.

        Raises:
            ProcessDied: one has ended.
        """
        for child in self._running.values():
            status = child.process.poll()
            if status is not None:
                raise child.failure(f"ended with status {status}")

    def finish(self, name: str) -> None:
        """Wait until the process `name` has ended by itself.

        Raises:
            ProcessDied: it failed, or another process ended.
        """
        child = self._running[name]
        while child.process.poll() is None:
            time.sleep(0.02)
            for other in self._running.values():
                if other is not child and other.process.poll() is not None:
                    raise other.failure(f"ended with status {other.process.returncode}")
        del self._running[name]
        if child.process.returncode:
            raise child.failure(f"failed with status {child.process.returncode}")

    def is_running(self, name: str) -> bool:
        """Return whether the process `name` was started and has not ended."""
        return name in self._running and self._running[name].process.poll() is None

    def stop(self, *names: str) -> None:
        """Send SIGTERM to these processes and wait until they have ended.

        Raises:
            ProcessDied: one returned an error, or did not end within 30 s.
        """
        stopping = [self._running.pop(name) for name in names if name in self._running]
        for child in stopping:
            child.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + _STOP_TIMEOUT_S
        for child in stopping:
            try:
                status = child.process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()
                raise child.failure(f"did not stop within {_STOP_TIMEOUT_S:.0f} s of SIGTERM") from None
            # A process that has not set its handler yet, still importing, ends by the signal itself: it had nothing to finish.
            if status not in (0, -signal.SIGTERM):
                raise child.failure(f"stopped with status {status}")

    def wait_serving(self, name: str, address: str) -> None:
        """Wait until the replica `name` reports SERVING on the gRPC health service.

        Raises:
            ProcessDied: it ended, or did not serve within 120 s.
        """
        deadline = time.monotonic() + _START_TIMEOUT_S
        with grpc.insecure_channel(address) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            while time.monotonic() < deadline:
                self.check()
                try:
                    answer = health.Check(health_pb2.HealthCheckRequest(service=SERVICE), timeout=1.0)
                    if answer.status == health_pb2.HealthCheckResponse.SERVING:
                        return
                except grpc.RpcError:
                    pass
                time.sleep(0.1)
        raise self._running[name].failure(f"did not serve within {_START_TIMEOUT_S:.0f} s")

    def __enter__(self) -> Children:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self.stop(*list(self._running))
        except ProcessDied:
            if kind is None:
                raise
        finally:
            for child in self._running.values():
                child.process.kill()


def _die_with_parent() -> None:
    """Ask the kernel for a SIGTERM when the driver dies."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
