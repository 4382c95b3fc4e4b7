"""Tables into a job: features as replicas read them, history as the joiner joins it, bad rows named or counted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monolith_py.config import JobConfig
from monolith_py.config.load import read_columns
from monolith_py.data.ids import fid_from_text
from monolith_py.errors import ConfigError
from monolith_py.io.codec import decode_action, decode_impression
from monolith_streaming.load import LoadOptions, Tables

World = Any
NOW_MS = 1_700_000_000_000


def test_features_are_stored_under_the_keys_of_replicas_texts_hashed(target: Any, users: Path, items: Path) -> None:
    result = target.load(users=users, items=items)
    assert (result.users, result.items, result.impressions, result.bad_rows) == (3, 3, 0, {})
    ann, bob = (target.features(f"user:{fid_from_text(name)}") for name in ("ann", "bob"))
    assert ann.sparse["country"].fids.tolist() == [fid_from_text("nz")] and ann.dense["age"].tolist() == [[30.5]]
    assert bob.sparse["country"].fids.tolist() == [], "a null is an empty bag"
    tags = [target.features(f"item:{item}").sparse["tags"].fids.tolist() for item in (1, 2, 3)]
    assert tags == [[fid_from_text("a"), fid_from_text("b")], [], []]
    assert target.features("item:3").dense["price"].tolist() == [[5.0, 6.0]]


def test_columns_of_other_names_are_mapped_and_a_feature_may_be_left_out(target: Any, write: Callable[..., Path], tmp_path: Path) -> None:
    table = write("people", uid=[7, 8], land=["nz", "fr"])
    (tmp_path / "columns.toml").write_text('[users]\nid = "uid"\n[users.features]\ncountry = "land"\nage = ""\n')
    columns = read_columns(tmp_path / "columns.toml").model_dump()
    assert target.load(columns, users=table).users == 2
    features = target.features("user:7")
    assert features.sparse["country"].fids.tolist() == [fid_from_text("nz")] and not features.dense


def test_impressions_have_the_features_of_table_and_store(
    target: Any, users: Path, items: Path, write: Callable[..., Path], history: dict[str, Any]
) -> None:
    result = target.load(users=users, items=items, impressions=write("impressions", **history))
    assert (result.impressions, result.refused) == (3, 0)
    found = {one.request_id: one for one in map(decode_impression, target.values("impressions"))}
    one = found["r1"]
    assert (one.user_id, one.item_ids.tolist(), one.time_ms) == (fid_from_text("ann"), [1, 3], NOW_MS + 5)
    assert {name: column.fids.tolist() for name, column in one.shared.sparse.items()} == {
        "user_id": [fid_from_text("ann")],
        "country": [fid_from_text("nz")],
        "place": [4, 5],
    }
    assert one.candidates.sparse["item_id"].fids.tolist() == [1, 3]
    assert one.candidates.sparse["tags"].lengths.tolist() == [2, 0]
    assert one.candidates.dense["price"].tolist() == [[1.0, 2.0], [5.0, 6.0]]
    np.testing.assert_allclose(one.candidates.dense["counter_item_id"], [[0.0, 0.3]] * 2)
    unknown = found["r3"]
    assert unknown.shared.dense["age"].tolist() == [[0.0]] and unknown.shared.sparse["country"].lengths.tolist() == [0]
    assert [record.partition for records in target.log.records["impressions"] for record in records] != [0, 0, 0]


def test_features_in_the_table_of_impressions_are_those_served(
    target: Any, users: Path, write: Callable[..., Path], history: dict[str, Any]
) -> None:
    served = {**history, "then": [1.0, 2.0, 1.0, 3.0], "price": [[9.0, 9.0]] * 4, "tags": [[7], [8], [9], []]}
    target.load({"impressions": {"features": {"age": "then"}}}, users=users, impressions=write("impressions", **served))
    found = {one.request_id: one for one in map(decode_impression, target.values("impressions"))}
    assert found["r1"].shared.dense["age"].tolist() == [[1.0]] and found["r2"].shared.dense["age"].tolist() == [[2.0]]
    assert found["r1"].candidates.sparse["tags"].fids.tolist() == [7, 9]
    assert found["r1"].candidates.dense["price"].tolist() == [[9.0, 9.0]] * 2


def test_a_history_is_joined_like_one_that_replicas_wrote(
    world: World, target: Any, write: Callable[..., Path], history: dict[str, Any]
) -> None:
    actions = write("actions", request_id=["r1", "r3"], item_id=[3, 1], kind=["click", "click"], time_ms=[NOW_MS + 800, NOW_MS + 900])
    assert target.load(impressions=write("impressions", **history), actions=actions).actions == 2
    world.join(target.job, target.log)
    assert {(request, item): labels for request, item, _, labels in world.labels(target.job, target.log)} == {
        ("r1", 1): (0,),
        ("r1", 3): (1,),
        ("r2", 2): (0,),
        ("r3", 1): (1,),
    }


def test_labels_in_the_table_of_impressions_are_actions(
    world: World, target: Any, write: Callable[..., Path], history: dict[str, Any]
) -> None:
    history = {name: values for name, values in history.items() if name != "request_id"} | {"clicked": [True, False, False, True]}
    result = target.load({"impressions": {"request_id": "", "actions": {"click": "clicked"}}}, impressions=write("impressions", **history))
    assert (result.impressions, result.actions) == (3, 2)
    world.join(target.job, target.log)
    ann = f"{fid_from_text('ann')}-{NOW_MS + 5}"
    labels = {(request, item): labels for request, item, _, labels in world.labels(target.job, target.log)}
    assert (labels[ann, 1], labels[ann, 3]) == ((1,), (0,))


def test_one_row_a_request_with_lists_of_items(target: Any, write: Callable[..., Path]) -> None:
    times = [datetime.fromtimestamp(NOW_MS / 1000 + second, UTC) for second in (3, 1)]
    table = write("impressions", request_id=["a", "b"], time_ms=times, user_id=[1, 2], item_id=[["x", "y"], ["z"]])
    assert target.load(impressions=table).impressions == 2
    found = {one.request_id: one for one in map(decode_impression, target.values("impressions"))}
    assert found["a"].item_ids.tolist() == [fid_from_text("x"), fid_from_text("y")] and found["b"].time_ms == NOW_MS + 1000


def many(write: Callable[..., Path], num: int = 2500) -> dict[str, Path]:
    numbers = np.arange(num)
    shown = write(
        "impressions", request_id=[f"r{n}" for n in numbers], time_ms=NOW_MS + numbers * 10, user_id=numbers % 7, item_id=numbers % 5
    )
    clicks = numbers[::3]
    done = write(
        "actions",
        request_id=[f"r{n}" for n in clicks],
        item_id=clicks % 5,
        kind=["click"] * len(clicks),
        time_ms=NOW_MS + clicks * 10 + 500,
    )
    return {"impressions": shown, "actions": done}


def test_a_load_killed_at_any_moment_and_run_again_loads_every_record_once(world: World, target: Any, write: Callable[..., Path]) -> None:
    tables = many(write, 1100)  # two chunks
    fuse = world.Fuse(10**9)
    target.load(log=world.FailingLog(target.log, fuse), kv=world.FailingKv(target.kv, fuse), **tables)
    whole, moments = {topic: sorted(target.values(topic)) for topic in ("impressions", "actions")}, fuse.passed
    assert (len(whole["impressions"]), len(whole["actions"])) == (1100, 367) and moments > 20
    for at in range(moments):
        one = type(target)(world, target.job)
        fuse = world.Fuse(at)
        with pytest.raises(world.Killed):
            one.load(log=world.FailingLog(one.log, fuse), kv=world.FailingKv(one.kv, fuse), **tables)
        other = b"a live impression in between"
        one.log.append("impressions", [other], time_ms=1, partition=0)
        one.load(**tables)
        assert sorted(value for value in one.values("impressions") if value != other) == whole["impressions"], at
        assert sorted(one.values("actions")) == whole["actions"], at


def test_a_second_load_of_the_same_tables_adds_nothing(target: Any, write: Callable[..., Path]) -> None:
    tables = many(write, 30)
    assert not target.load(**tables).loaded_before
    again = target.load(**tables)
    assert again.loaded_before and (again.impressions, again.actions) == (30, 10)
    assert len(target.values("impressions")) == 30


def test_records_are_in_the_order_of_event_time(target: Any, write: Callable[..., Path]) -> None:
    target.load(**many(write))
    for topic, decode in (("impressions", decode_impression), ("actions", decode_action)):
        for records in target.log.records[topic]:
            times_ms = [decode(record.value).time_ms for record in records]
            assert times_ms == sorted(times_ms) and len(times_ms) > 100


def test_history_behind_the_records_of_a_running_job_is_refused_and_may_go_into_topics_of_its_own(
    world: World, target: Any, write: Callable[..., Path], history: dict[str, Any]
) -> None:
    world.append(target.job, target.log, world.impression("live", 20.0, time_ms=NOW_MS + 5))
    with pytest.raises(ConfigError, match=r"history must be later than all records of topic 'impressions'\[0\]"):
        target.load(impressions=write("impressions", **history))
    assert target.load(impressions=write("impressions", **history), prefix="history.").impressions == 3
    assert len(target.values("history.impressions")) == 3 and len(target.values("impressions")) == 1
    with pytest.raises(ConfigError, match=r"prefix must be letters, digits"):
        target.load(impressions=write("impressions", **history), prefix="no/")


def test_actions_may_be_loaded_after_their_impressions(target: Any, write: Callable[..., Path]) -> None:
    tables = many(write, 30)
    target.load(impressions=tables["impressions"])
    assert target.load(actions=tables["actions"]).actions == 10
    assert (len(target.values("impressions")), len(target.values("actions"))) == (30, 10)


def test_a_store_in_memory_is_refused(job: JobConfig, users: Path) -> None:
    from monolith_streaming.load.process import run_load

    with pytest.raises(ConfigError, match=r"kv\.url must be a store that outlives the load"):
        run_load(job, Tables(users=users), replace(LoadOptions()))
