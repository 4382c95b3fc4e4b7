"""Provenance of a run: date, commit and machine."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from monolith_py import _core

_GIT_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Provenance:
    """Date, commit and machine of a run."""

    date: str  # UTC
    commit: str | None  # None outside a git work tree
    machine: str

    def __str__(self) -> str:
        """Return one line of text."""
        return ". ".join(part for part in (self.date, f"Commit {self.commit}" if self.commit else "", self.machine) if part)


def provenance(now: datetime | None = None) -> Provenance:
    """Return the provenance of a run on this machine at `now` (default: the current time)."""
    date = (now or datetime.now(UTC)).astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return Provenance(date, commit_of(Path(__file__).resolve()), _machine())


def commit_of(file: Path) -> str | None:
    """Return the short hash of the checkout that tracks `file`, "HASH + changes" for a dirty one; None without git or checkout."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(file.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=_GIT_TIMEOUT_S).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", file.name)  # an installed file may lie inside a checkout of another project
        return git("rev-parse", "--short=12", "HEAD") + (" + changes" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _machine() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    model = re.search(r"^model name\s*: (.*)$", cpuinfo.read_text() if cpuinfo.exists() else "", re.MULTILINE)
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    name = model[1].strip() if model else platform.machine()
    return f"{name}, {len(os.sched_getaffinity(0))} CPUs, {memory_gb:.0f} GB, {_core.simd_level()}, Python {platform.python_version()}"
