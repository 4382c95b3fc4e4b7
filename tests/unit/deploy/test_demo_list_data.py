"""Data of the list-wise demo: replicas read at each hour the features that history was logged with."""

from __future__ import annotations

import numpy as np
import pytest

from monolith_demo.dataset.list_data import HISTORY_DAYS, ListData, load_list_data
from monolith_demo.dataset.listwise import DAY_MS, HOUR_MS, START_MS
from monolith_demo.driver.job_files import CONFIGS
from monolith_py.config import load_job


@pytest.fixture(scope="module")
def data() -> ListData:
    return load_list_data(3000)


def test_the_live_phase_is_the_last_day(data: ListData) -> None:
    assert data.stream.times_ms[data.num_history - 1] < START_MS + HISTORY_DAYS * DAY_MS <= data.stream.times_ms[data.num_history]
    assert data.stream.times_ms[-1] < START_MS + (HISTORY_DAYS + 1) * DAY_MS
    assert len(data.labels["click"]) == data.stream.offsets[-1]


def test_a_replica_reads_in_each_hour_the_features_that_an_impression_of_that_hour_is_logged_with(data: ListData) -> None:
    stored = {hour: data.items_in_hour(hour) for hour in range((HISTORY_DAYS + 1) * 24)}
    for impression in data.requests.impressions(range(0, len(data.stream), 50)):
        of_hour = stored[(impression.time_ms - START_MS) // HOUR_MS]
        for row, item in enumerate(impression.item_ids.tolist()):
            logged = {name: column.fids[row] for name, column in impression.candidates.sparse.items() if name != "item_id"}
            assert {name: column.fids[0] for name, column in of_hour[item].sparse.items()} == logged
    assert len({of[item].sparse["age"].fids[0] for of in stored.values() for item in of if item == 1500}) > 3


def test_features_are_renewed_at_each_hour_of_the_live_phase(data: ListData) -> None:
    starts_ms, hours = zip(*data.hours(), strict=True)
    assert hours == tuple(range(49, 72))
    assert all(start_ms == START_MS + hour * HOUR_MS for start_ms, hour in zip(starts_ms, hours, strict=True))
    assert sum(start_ms % DAY_MS == 0 for start_ms in starts_ms) == 1  # midnight
    first_hour = data.items
    assert first_hour.keys() == data.items_in_hour(48).keys()


def test_impressions_have_every_feature_of_the_job_and_no_other(data: ListData) -> None:
    (impression,) = data.impressions(range(7, 8))
    job = load_job(CONFIGS / "demo-list.toml")
    shared = {feature.name for feature in job.features if feature.source in ("user_id", "context")}
    assert impression.shared.sparse.keys() == shared
    assert impression.candidates.sparse.keys() == {feature.name for feature in job.features} - shared
    assert impression.candidates.num_rows == len(impression.item_ids) == len(data.stream.candidates(7))
    assert np.array_equal(impression.candidates.sparse["item_id"].fids, impression.item_ids)
