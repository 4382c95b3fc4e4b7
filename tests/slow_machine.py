"""Run a command at a quarter of the speed of one core: `python tests/slow_machine.py COMMAND ...`.

The command is pinned to one core and stopped, with all processes it started, by SIGSTOP for 30 of every 40 milliseconds. Clocks go on, so
every deadline comes four times as early, or earlier where the command would have used several cores. No cgroup and no rights are needed.
A process that leaves the command's process group runs at full speed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys

RUN_S, STOP_S = 0.01, 0.03


def main(command: list[str]) -> int:
    """Run the command slowly and return its exit status."""
    core = max(os.sched_getaffinity(0))
    child = subprocess.Popen(command, process_group=0)
    try:
        os.sched_setaffinity(child.pid, {core})
        while child.poll() is None:
            _pass_time(child, RUN_S)
            os.killpg(child.pid, signal.SIGSTOP)
            _pass_time(child, STOP_S)
            os.killpg(child.pid, signal.SIGCONT)
    except ProcessLookupError:
        pass  # it ended in between
    finally:
        # Also on an interrupt: what is stopped would stay for ever.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGTERM)
            os.killpg(child.pid, signal.SIGCONT)
    return child.wait()


def _pass_time(child: subprocess.Popen[bytes], duration_s: float) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(duration_s)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
