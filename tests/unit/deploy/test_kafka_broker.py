"""Kafka broker of the demo and the tests: it names missing programs and leaves no process running."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "monolith_demo.driver.kafka_broker"]


def run(folder: Path, **environment: str) -> str:
    """Run the broker in this environment, expect exit status 1, and return its standard error."""
    done = subprocess.run([*COMMAND, str(folder)], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    return done.stderr


def test_without_java_it_says_so(tmp_path: Path) -> None:
    assert "Java is missing" in run(tmp_path / "data", PATH=str(tmp_path))


def test_with_an_old_java_it_says_which(tmp_path: Path) -> None:
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\" 2019-01-15' >&2\n")
    java.chmod(0o755)
    assert "Java 17 or newer is needed, got ['openjdk version \"11.0.2\" 2019-01-15']" in run(tmp_path / "data", PATH=str(tmp_path))


@pytest.mark.needs_kafka
def test_without_maven_and_cache_it_says_so(kafka_url: str, tmp_path: Path) -> None:
    java = shutil.which("java")
    assert java is not None
    (tmp_path / "java").symlink_to(java)
    assert "Maven is missing" in run(tmp_path / "data", PATH=str(tmp_path), XDG_CACHE_HOME=str(tmp_path / "cache"))


@pytest.mark.needs_kafka
def test_sigterm_of_the_script_stops_the_broker(kafka_url: str, tmp_path: Path) -> None:
    with subprocess.Popen([*COMMAND, str(tmp_path / "data")], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline().rpartition(":")[2])
        socket.create_connection(("127.0.0.1", port)).close()
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
