"""Java and Maven: jars of a pom.xml, downloaded once into a cache."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

_RESOLVE_TIMEOUT_S = 600.0  # up to 150 MB from the registry


class JavaUnavailable(Exception):
    """Java or Maven is missing, or jars could not be downloaded."""


def resolve_jars(pom: Path, name: str) -> Path:
    """Return the folder with the jars of `pom`; download them with Maven unless they are cached as `name`.

    Raises:
        JavaUnavailable: Java 17 or Maven is missing, or Maven failed.
    """
    _require_java()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "monolith-py"
    libraries = cache / name
    if libraries.is_dir():
        return libraries
    if shutil.which("mvn") is None:
        raise JavaUnavailable("Maven is missing: `mvn` is not on the path (Debian: apt-get install maven)")
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not libraries.is_dir():
            # Renamed into place, so that the folder is always complete.
            staging = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=cache))
            try:
                _run_maven(pom, staging)
                staging.rename(libraries)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
    return libraries


def _require_java() -> None:
    if shutil.which("java") is None:
        raise JavaUnavailable("Java is missing: `java` is not on the path (Debian: apt-get install openjdk-17-jre-headless)")
    answer = subprocess.run(["java", "-version"], capture_output=True, text=True, check=False)
    version = re.search(r'version "(\d+)', answer.stderr + answer.stdout)
    if version is None or int(version[1]) < 17:
        raise JavaUnavailable(f"Java 17 or newer is needed, got {(answer.stderr or answer.stdout).splitlines()[:1]}")


def _run_maven(pom: Path, target: Path) -> None:
    command = ["mvn", "-q", "-B", "-f", str(pom), "dependency:copy-dependencies", f"-DoutputDirectory={target}"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_RESOLVE_TIMEOUT_S, cwd=target)
    except subprocess.TimeoutExpired:
        raise JavaUnavailable(f"Maven did not resolve {pom.name} within {_RESOLVE_TIMEOUT_S:.0f} s") from None
    if result.returncode:
        raise JavaUnavailable(f"Maven could not resolve {pom.name}:\n" + "\n".join((result.stdout + result.stderr).splitlines()[-15:]))
