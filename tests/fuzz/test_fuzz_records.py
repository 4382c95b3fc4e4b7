"""A short run of the fuzz of all topics, from a fixed seed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_mutated_records_of_every_topic_hurt_no_sound_one(work_factor: int) -> None:
    program = Path(__file__).with_name("fuzz_records.py")
    most = 500 * work_factor
    done = subprocess.run([sys.executable, str(program), "1e9", str(most), "7"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert f"impressions={most}, actions={most}, examples={most}, updates={most}" in done.stdout
