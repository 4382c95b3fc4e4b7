"""Limits at which a broker deletes by itself, against the needs of the processes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from kafka import KafkaAdminClient
from typer.testing import CliRunner

from monolith_py.cli import app
from monolith_py.config import JobConfig, parse_job
from monolith_py.io import Log, MemoryLog
from monolith_py.io.log.log import TopicInfo
from monolith_py.io.log.topics import create_topics
from monolith_py.training import CheckpointMeta
from monolith_streaming.retention import retention_faults

NOW_MS = 1_800_000_000_000
# Window and lateness of the job: 10 minutes and an hour.
OPEN_MS = 4_200_000


class DeletingLog(MemoryLog):
    """A log in memory that tells limits and sizes as a broker does."""

    def __init__(self) -> None:
        super().__init__()
        self.limits: dict[str, tuple[int | None, int | None]] = {}
        self.sizes: dict[str, int] = {}

    def describe(self, topic: str) -> TopicInfo:
        return TopicInfo(topic, None, *self.limits.get(topic, (None, None)))

    def num_bytes(self, topic: str) -> int:
        return self.sizes.get(topic, 0)


def make_job(folder: Path, **trainer: float) -> JobConfig:
    return parse_job(
        {
            "name": "shop",
            "log": {"url": "sqlite:///log", "partitions": 2},
            "kv": {"url": "memory:"},
            "features": [{"name": "user", "source": "user_id"}],
            "tasks": [{"name": "is_click", "action": "click"}],
            "trainer": {"checkpoint_dir": str(folder), **trainer},
        }
    )


@pytest.fixture
def log(tmp_path: Path) -> DeletingLog:
    log = DeletingLog()
    create_topics(log, make_job(tmp_path).log)
    return log


def test_a_log_without_limits_has_no_fault(log: DeletingLog, tmp_path: Path) -> None:
    assert list(retention_faults(make_job(tmp_path), log, [], NOW_MS)) == []


def test_an_age_below_the_need_of_the_topic_is_told_with_what_to_set(log: DeletingLog, tmp_path: Path) -> None:
    log.limits = dict.fromkeys(("impressions", "actions", "examples", "updates"), (OPEN_MS, None))
    assert list(retention_faults(make_job(tmp_path), log, [], NOW_MS)) == []
    log.limits = dict.fromkeys(("impressions", "examples"), (OPEN_MS - 1, None)) | {"updates": (119_999, None)}
    faults = list(retention_faults(make_job(tmp_path), log, [], NOW_MS))
    assert faults == [
        f"topic '{topic}': retention.ms should be -1 or at least {need} ({reason}), plus the longest outage to survive, got {got}"
        for topic, need, reason, got in (
            ("impressions", OPEN_MS, "joiner.window_s + joiner.allowed_lateness_s", OPEN_MS - 1),
            ("examples", OPEN_MS, "joiner.window_s + joiner.allowed_lateness_s", OPEN_MS - 1),
            ("updates", 120_000, "2 x trainer.checkpoint_interval_s", 119_999),
        )
    ]


def test_checkpoints_that_are_kept_for_longer_need_their_examples(log: DeletingLog, tmp_path: Path) -> None:
    log.limits = {"examples": (OPEN_MS, None)}
    (fault,) = retention_faults(make_job(tmp_path, checkpoints_kept=24, checkpoint_interval_s=3600), log, [], NOW_MS)
    assert "at least 86400000 (trainer.checkpoints_kept x trainer.checkpoint_interval_s)" in fault


def test_a_size_is_compared_at_the_present_rate_of_the_fullest_partition(log: DeletingLog, tmp_path: Path) -> None:
    """3,000 of 4,000 bytes are in one partition, over 2,100 s: twice as many in 4,200 s."""
    log.append("actions", [b"x"] * 3, time_ms=NOW_MS - 2_100_000, partition=0)
    log.append("actions", [b"x"], time_ms=NOW_MS - 60_000, partition=1)
    log.sizes = {"actions": 4_000}
    log.limits = {"actions": (None, 6_000), "impressions": (None, 1)}
    assert list(retention_faults(make_job(tmp_path), log, [], NOW_MS)) == [], "impressions have no rate yet"
    log.limits = {"actions": (None, 5_999)}
    (fault,) = retention_faults(make_job(tmp_path), log, [], NOW_MS)
    assert "topic 'actions': retention.bytes should be -1 or at least 6000 at the present rate (4200 s, " in fault


def test_a_checkpoint_whose_records_are_gone_is_told(log: DeletingLog, tmp_path: Path) -> None:
    meta = CheckpointMeta("shop", 7, 70, 1, 1, 3, {0: (5, 0), 1: (2, 0)}, NOW_MS, NOW_MS - 10_000_000)
    log.append("examples", [b"x"] * 10, time_ms=1, partition=0)
    log.trim("examples", 0, 6)
    log.limits = {"examples": (OPEN_MS, None)}  # an hour and 10 minutes
    faults = list(retention_faults(make_job(tmp_path), log, [meta], NOW_MS))
    assert faults == [
        "topic 'examples': retention.ms should be -1 or at least 10000000 (age of the oldest checkpoint), "
        f"plus the longest outage to survive, got {OPEN_MS}",
        "topic 'examples'[0]: must have its records from 5 on, for the checkpoint of step 7, got 6: the records between are lost to it",
    ]


@pytest.mark.needs_kafka
def test_the_command_tells_what_to_change_of_kafka_s_own_retention(kafka_url: str, tmp_path: Path, make_log: Callable[..., Log]) -> None:
    toml = tmp_path / "job.toml"
    toml.write_text(
        f"""
        name = "shop"
        log = {{ url = "{kafka_url}", topic_prefix = "limits." }}
        kv = {{ url = "memory:" }}
        features = [{{ name = "user", source = "user_id" }}]
        tasks = [{{ name = "is_click", action = "click" }}]
        trainer = {{ checkpoint_dir = "{tmp_path}/checkpoints" }}
        """
    )
    settings = {"retention.ms": "60000", "retention.bytes": "1000"}
    with closing(KafkaAdminClient(bootstrap_servers=kafka_url.removeprefix("kafka://"))) as admin:
        wanted = {"limits.actions": {"num_partitions": 1, "replication_factor": 1, "configs": settings}}
        admin.create_topics(wanted, wait_for_metadata=True)
    info = make_log(kafka_url).describe("limits.actions")
    assert (info.retention_ms, info.retention_bytes) == (60_000, 1_000)
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["topics", "--config", str(toml)])
    assert result.exit_code == 0, result.output
    assert "topic 'limits.actions': retention.ms should be -1 or at least 4200000" in result.stderr
    info = make_log(kafka_url).describe("limits.examples")
    assert (info.retention_ms, info.retention_bytes) == (None, None), "topics that the command has made"


def test_topics_of_a_job_without_checkpoints_are_checked_without_torch() -> None:
    code = "import sys, monolith_streaming.retention; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "torch" not in done.stdout.split()
