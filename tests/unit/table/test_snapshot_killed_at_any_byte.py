"""A save killed by the kernel at any byte of its file leaves the earlier snapshot intact."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

NUM_ROWS, STEP = 100, 5

# Saves version 1, then lets a child for each size die of SIGXFSZ while it saves version 2, whose file may be no larger than that size.
SAVER = """
import os, resource, signal, sys
import numpy as np
from monolith_py import _core

path, num_rows, step = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
part = _core.Slice("weights", 4, "adagrad", {"lr": 1.0}, "zeros", 0.0, "fp16")
table = _core.Table([part], seed=0, admission="count", admit_after=1, sketch_bytes=0, sketch_window_s=0, ttl_s=0, eviction="none",
                    budget_bytes=0, half_life_s=0)
rows = np.empty(num_rows, np.uint32)
table.find_or_insert(np.arange(num_rows), 0, rows)


def save(number):
    saving = table.start_saving(path, number, 0)
    while saving.copy(0):
        pass
    saving.finish()
    saving.commit(False)


save(1)
whole = os.path.getsize(path)
before = open(path, "rb").read()
table.update(rows, np.ones((num_rows, 4), np.float32))
for size in [*range(0, whole, step), whole - 1]:
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        save(2)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXFSZ, (size, status)
    assert open(path, "rb").read() == before, size
    assert os.path.getsize(path + ".tmp") == size
    restored = _core.restore_table(path, 0, 1)
    assert (restored.snapshot_id, len(restored)) == (1, num_rows)
save(2)
assert _core.restore_table(path, 0, 1).snapshot_id == 2 and not os.path.exists(path + ".tmp")
print("killed", len(range(0, whole, step)) + 1)
"""


def test_a_save_that_is_killed_at_any_byte_leaves_the_snapshot_before_it(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SAVER, str(tmp_path / "t"), str(NUM_ROWS), str(STEP)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[1]) > NUM_ROWS * (24 + 4 * 8) // STEP
