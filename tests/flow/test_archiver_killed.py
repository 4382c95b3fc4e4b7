"""The archiver's process is killed with SIGKILL again and again while the log grows: every record is archived exactly once."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from monolith_py.config import load_job
from monolith_py.data.events import Action
from monolith_py.io import Log, open_log
from monolith_py.io.codec import encode_action
from monolith_py.io.log.topics import create_topics

NUM_KILLS, RECORDS_BETWEEN_KILLS, PARTITIONS = 4, 3000, 2
START_MS, HOUR_MS = 1_700_000_000_000, 3_600_000

TOML = """
name = "archived"
[log]
url = "sqlite:///{folder}/log"
partitions = 2
[kv]
url = "memory:"
[[features]]
name = "user_id"
source = "user_id"
[[tasks]]
name = "click"
action = "click"
[trainer]
checkpoint_dir = "{folder}/checkpoints"
"""


def append(log: Log, first: int, num: int) -> None:
    for partition in range(PARTITIONS):
        numbers = range(first, first + num)
        actions = [Action(f"r{number}", number, "click", START_MS + number * HOUR_MS // 500) for number in numbers]
        times_ms = [action.time_ms for action in actions]
        log.append("actions", [encode_action(action) for action in actions], time_ms=times_ms, partition=partition)


def archived(folder: Path) -> Counter[tuple[int, int]]:
    found: Counter[tuple[int, int]] = Counter()
    for file in folder.glob("topic=actions/*/*/*.parquet"):
        rows = pq.ParquetFile(file).read(["log_partition", "log_offset"])
        found.update(zip(*(column.to_pylist() for column in rows.columns), strict=True))
    return found


@pytest.mark.slow
def test_an_archiver_killed_again_and_again_archives_every_record_once(tmp_path: Path) -> None:
    config, folder = tmp_path / "job.toml", tmp_path / "archive"
    config.write_text(TOML.format(folder=tmp_path))
    job = load_job(config)
    command = [sys.executable, "-m", "monolith_py.cli", "archive", "--config", str(config), str(folder)]
    with closing(open_log(job.log.url)) as log:
        create_topics(log, job.log)
        total = 0
        for kill in range(NUM_KILLS):
            process: Any = subprocess.Popen([*command, "--follow", "--interval", "1"], stderr=subprocess.PIPE, text=True)
            try:
                lines = 0
                # Killed while it writes: at the first, second, ... line of the run.
                while lines <= kill:
                    append(log, total, RECORDS_BETWEEN_KILLS)
                    total += RECORDS_BETWEEN_KILLS
                    line = process.stderr.readline()
                    assert line, "the archiver ended by itself"
                    lines += "archived in" in line
            finally:
                process.kill()
                process.communicate()
            assert max(archived(folder).values(), default=1) == 1
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert archived(folder) == Counter((partition, offset) for partition in range(PARTITIONS) for offset in range(total))
