"""Memory of this process and the limit of its control group (cgroup v1 or v2), beyond which the kernel kills it without a word."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

# Limits above are none: v1 says so by the greatest multiple of a page.
_NO_LIMIT = 1 << 60


@dataclass(frozen=True)
class Cgroup:
    """A control group with a memory limit."""

    limit_bytes: int
    usage: Path  # file with the bytes in use
    stat: Path
    cache: str  # name in `stat` of the file cache that the kernel drops before it kills

    def used_bytes(self) -> int:
        """Return the bytes in use without the file cache that can be dropped, as Kubernetes counts them."""
        cached = dict(line.split() for line in self.stat.read_text().splitlines()).get(self.cache, "0")
        return int(self.usage.read_text()) - int(cached)


def find_cgroup(root: Path = Path("/")) -> Cgroup | None:
    """Return the control group with the least memory limit above this process, None without a limit. `root` is for tests."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            names = ("memory.max", "memory.current", "inactive_file")
            found += [one for base in ("sys/fs/cgroup", "sys/fs/cgroup/unified") for one in _above(root / base, path, *names)]
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            found += _above(root / "sys/fs/cgroup/memory", path, *names)
    return min(found, key=lambda cgroup: cgroup.limit_bytes, default=None)


def resident_bytes() -> int:
    """Return the resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _above(base: Path, path: str, limit: str, usage: str, cache: str) -> list[Cgroup]:
    """Return the groups with a limit from `path` up to `base`. In a container `path` may be the host's: `base` alone is there."""
    found = []
    folder = base / path.lstrip("/")
    for group in (folder, *folder.parents):
        try:
            bytes_ = int((group / limit).read_text())
        except (OSError, ValueError):  # absent, or "max"
            bytes_ = _NO_LIMIT
        if bytes_ < _NO_LIMIT:
            found.append(Cgroup(bytes_, group / usage, group / "memory.stat", cache))
        if group == base:
            break
    return found
