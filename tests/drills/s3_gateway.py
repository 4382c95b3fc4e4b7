"""A genuine S3 server on a folder: the Versity gateway, built once from its Go module. Its objects survive `kill` and `start`."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import subprocess
from pathlib import Path

from surroundings import wait_until

from monolith_demo.driver.ports import free_ports
from tests.s3_server import CREDENTIALS

_MODULE = "github.com/versity/versitygw/cmd/versitygw@v1.8.0"
_BUILD_TIMEOUT_S = 1500.0  # two minutes on an idle machine


class GatewayUnavailable(Exception):
    """Go is missing, or the gateway could not be built."""


class S3Gateway:
    """One gateway with the bucket `bucket`, whose objects are the files below `bucket`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bucket = folder, folder / "root" / "bucket"
        self.bucket.mkdir(parents=True)
        (self.port,) = free_ports(1)
        access = ["-a", CREDENTIALS["AWS_ACCESS_KEY_ID"], "-s", CREDENTIALS["AWS_SECRET_ACCESS_KEY"]]
        self._command = [str(built_gateway()), *access, "--port", f"127.0.0.1:{self.port}", "-q", "posix", str(folder / "root")]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self.folder / "gateway.log").open("ab") as output:
            self._process = subprocess.Popen(self._command, stdout=output, stderr=subprocess.STDOUT)
        wait_until(self._listens)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _listens(self) -> bool:
        assert self._process is not None and self._process.poll() is None, (self.folder / "gateway.log").read_text()
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1.0).close()
        except OSError:
            return False
        return True


def built_gateway() -> Path:
    """Return the program of the gateway; build it unless it is cached.

    Raises:
        GatewayUnavailable: Go is missing, or the build failed.
    """
    go = shutil.which("go") or shutil.which("/usr/local/go/bin/go")
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "monolith-py" / _MODULE.rpartition("/")[2]
    program = folder / "versitygw"
    if program.exists():
        return program
    if go is None:
        raise GatewayUnavailable("Go is missing: `go` is not on the path")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.exists():
            staging = folder / "staging"
            environment = {**os.environ, "GOBIN": str(staging), "CGO_ENABLED": "0"}
            try:
                built = subprocess.run([go, "install", _MODULE], env=environment, capture_output=True, text=True, timeout=_BUILD_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                raise GatewayUnavailable(f"{_MODULE} was not built within {_BUILD_TIMEOUT_S:.0f} s") from None
            if built.returncode:
                raise GatewayUnavailable(f"{_MODULE} could not be built:\n{built.stderr[-1500:]}")
            (staging / "versitygw").rename(program)
    return program
