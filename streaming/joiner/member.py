"""Name of a member of the joiner's group, which tells other processes of the same machine whether it still runs."""

from __future__ import annotations

import os
import secrets
import socket
from pathlib import Path


def own_name() -> str:
    """Return a new name for this process: host, kernel and process namespace, process id, a random token."""
    return f"{socket.gethostname()} {_machine()} {os.getpid()} {secrets.token_hex(4)}"


def has_ended(name: str) -> bool:
    """Return whether the process of `name` is known to have ended: it ran on this machine, and its process id is free or this process's.

    Of a process on another machine or in another container nothing is known.

    >>> has_ended("elsewhere 0-0 1 abcd")
    False
    """
    host, machine, process, *_ = [*name.split(" "), "", "", ""]
    if (host, machine) != (socket.gethostname(), _machine()) or not process.isdigit():
        return False
    if int(process) == os.getpid():
        return True
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _machine() -> str:
    """Return what processes have in common that see each other's ids: the boot of the kernel, and the namespace of process ids."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}-{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return secrets.token_hex(8)
