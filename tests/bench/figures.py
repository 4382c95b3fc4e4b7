"""What every bench prints and how it times: figures by name, calls in turns, and the class of the machine."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np

from monolith_py import _core


def figure(name: str, value: float, unit: str) -> None:
    """Print one figure."""
    print(f"figure {name} {value:.0f} {unit}" if abs(value) >= 1000 else f"figure {name} {value:.4g} {unit}", flush=True)


def interleaved(
    calls: Mapping[str, Callable[[int], object]],
    rounds: int,
    *,
    warmup: int = 0,
    before: Callable[[str, int], object] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Return the median seconds of each call, all of them taken in turns; each is told the number of its round.

    The first `warmup` rounds are not counted; `before`, with a call's name and round, runs ahead of each with the clock stopped.
    `time.thread_time` as the clock counts the processor time of the calling thread, for a machine that is busy.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for index in range(warmup + rounds):
        for name, call in calls.items():
            if before is not None:
                before(name, index)
            began_s = clock()
            call(index)
            times[name].append(clock() - began_s)
    return {name: float(np.median(values[warmup:])) for name, values in times.items()}


def cpu_seconds(pid: int) -> float:
    """Return the processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def tree_cpu_seconds(pid: int) -> float:
    """Return the processor time that a process and its living descendants have used."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with suppress(OSError):  # it has ended meanwhile
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(folder.name))
    tree = [pid]
    for one in tree:
        tree += children.get(one, [])
    return sum(map(cpu_seconds, tree))


def print_machine(*num_threads: int) -> None:
    """Print the class of the machine, as figures of different classes cannot be compared, and the numbers of threads to come."""
    fields: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines():
        key, _, value = line.partition(":")
        fields[key.strip()] = value.strip()
    flags = fields["flags"].split()
    vector = "AVX-512" if "avx512f" in flags else "AVX2" if "avx2" in flags else "no AVX2"
    bf16 = [name for name in ("avx512_bf16", "amx_bf16") if name in flags]
    threads = " and ".join(map(str, num_threads))
    print(
        f"machine {fields['model name']}, family {fields['cpu family']} model {fields['model']}, {vector}, bf16 {' '.join(bf16) or 'none'},"
        f" {len(os.sched_getaffinity(0))} CPUs, core {_core.simd_level()}, threads {threads}, load {os.getloadavg()[0]:.1f}",
        flush=True,
    )
