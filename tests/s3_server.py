"""A local S3 server for tests: moto, in a process of its own, which may be killed."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}


class S3Server:
    """The server; its buckets are lost with its process."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(600):
            try:
                with urllib.request.urlopen(self.endpoint, timeout=5):
                    return
            except (urllib.error.URLError, OSError):
                assert self._process.poll() is None, "the S3 server did not start"
                time.sleep(0.1)
        raise TimeoutError("the S3 server did not start in a minute")

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def keys(self, bucket: str, prefix: str) -> list[str]:
        """Return all keys below a prefix, also those that stand for folders."""
        with urllib.request.urlopen(f"{self.endpoint}/{bucket}?list-type=2&prefix={prefix}", timeout=30) as answer:
            return re.findall(r"<Key>([^<]*)</Key>", answer.read().decode())

    def make_bucket(self, name: str) -> None:
        with urllib.request.urlopen(urllib.request.Request(f"{self.endpoint}/{name}", method="PUT"), timeout=30):
            pass


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """Run a server for the block, with credentials for it in the environment."""
    before = {name: os.environ.get(name) for name in CREDENTIALS}
    os.environ.update(CREDENTIALS)
    server = S3Server()
    server.start()
    try:
        yield server
    finally:
        server.kill()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value
