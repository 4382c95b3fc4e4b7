"""A training process reuses freed memory: a later step asks the kernel for no new page."""

from __future__ import annotations

import subprocess
import sys

STEPS = """
import resource
import sys
import torch
from monolith_py import _core
if sys.argv[1] == "kept":
    _core.keep_freed_memory()
def step():
    torch.ones(10 << 20)  # 40 MiB: more than glibc ever keeps of its own accord
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    step()
before = faults()
for _ in range(40):
    step()
print(faults() - before)
"""
PAGES = (40 << 20) // 4096  # of a step


def test_a_step_faults_no_page_that_an_earlier_step_had() -> None:
    faults = {}
    for freed in ("kept", "given back"):
        run = subprocess.run([sys.executable, "-c", STEPS, freed], capture_output=True, text=True, check=True)
        faults[freed] = int(run.stdout)
    # What is small may split a piece that was freed, after which the next step asks for a new one: a few times, not every time.
    assert faults["kept"] < 8 * PAGES
    assert faults["given back"] > 35 * PAGES
