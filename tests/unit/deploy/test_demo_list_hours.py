"""Work of the list-wise demo at each hour: ages in the store, checkpoints for the hourly and the daily replica."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from monolith_demo.dataset.list_data import ListData, load_list_data
from monolith_demo.dataset.listwise import DAY_MS, HOUR_MS, START_MS
from monolith_demo.driver.context import RunContext
from monolith_demo.driver.job_files import Services, write_job_files
from monolith_demo.driver.list_demo import LIST, hourly_marks
from monolith_py.config import load_job
from monolith_py.io import Kv
from monolith_py.io.codec import decode_features
from monolith_py.training import Checkpoint, CheckpointMeta, Trainer, save_checkpoint


@pytest.fixture(scope="module")
def data() -> ListData:
    return load_list_data(1500)


@pytest.fixture
def run(data: ListData, tmp_path: Path) -> RunContext:
    """Run without processes and without a log."""
    where = Services(f"sqlite:///{tmp_path}/log", "memory:", 1, 2, 3, 4, 5, batch_ports=(6, 7))
    files = write_job_files(tmp_path, where, template=LIST.template, batch=LIST.batch)
    absent: Any = None
    return RunContext(data, files, files.job, absent, absent, absent)


def newest_step(run: RunContext, name: str) -> int | None:
    """Return the step of the newest checkpoint of a replica, None without one."""
    checkpoint = Checkpoint.newest(Path(load_job(run.files.batch[name]).trainer.checkpoint_dir))
    return None if checkpoint is None else checkpoint.meta.step


def save(run: RunContext, trainer: Trainer, step: int) -> None:
    meta = CheckpointMeta(run.job.name, step, 0, 1, step, 0, {0: (0, 0)}, 0, 1_000 * step)
    save_checkpoint(Path(run.job.trainer.checkpoint_dir), trainer, meta, keep=3)


def test_the_hourly_replica_gets_a_checkpoint_each_hour_and_the_daily_one_at_midnight(
    run: RunContext, data: ListData, make_kv: Callable[..., Kv]
) -> None:
    marks, trainer = hourly_marks(run, data, make_kv()), Trainer(run.job)
    assert [mark.time_ms for mark in marks] == [START_MS + hour * HOUR_MS for hour in range(49, 72)]
    midnight = START_MS + DAY_MS * 5 // 2
    daily = None
    for number, mark in enumerate(marks):
        save(run, trainer, number + 1)
        mark.work()
        daily = number + 1 if mark.time_ms == midnight else daily
        assert (newest_step(run, "hourly"), newest_step(run, "daily")) == (number + 1, daily)
    assert daily == 12


def test_an_hour_renews_the_age_of_every_item_shown_in_it(run: RunContext, data: ListData, make_kv: Callable[..., Kv]) -> None:
    kv = make_kv()
    hours = [hour for _, hour in data.hours()]
    for hour, mark in list(zip(hours, hourly_marks(run, data, kv), strict=True))[:5]:
        mark.work()
        for item, columns in data.items_in_hour(hour).items():
            (value,) = kv.get_many([f"item:{item}"])
            assert value is not None
            assert decode_features(value).sparse["age"].fids.tolist() == columns.sparse["age"].fids.tolist()
