"""Flink for trials and tests: it names missing programs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "monolith_demo.driver.flink_job_server"]


def run(*arguments: str, **environment: str) -> str:
    """Run the server in this environment, expect exit status 1, and return its standard error."""
    done = subprocess.run([*COMMAND, *arguments], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    return done.stderr


def test_without_java_it_says_so(tmp_path: Path) -> None:
    assert "no Flink: Java is missing" in run(str(tmp_path / "data"), PATH=str(tmp_path))


def test_without_maven_and_cache_it_says_so(tmp_path: Path) -> None:
    if (java := shutil.which("java")) is None:
        pytest.skip("NO JAVA, so nothing is known about Flink without Maven")
    (tmp_path / "java").symlink_to(java)
    assert "no Flink: Maven is missing" in run(str(tmp_path / "data"), PATH=str(tmp_path), XDG_CACHE_HOME=str(tmp_path / "cache"))


def test_without_a_folder_it_names_its_usage() -> None:
    assert "usage: python -m monolith_demo.driver.flink_job_server FOLDER" in run()
