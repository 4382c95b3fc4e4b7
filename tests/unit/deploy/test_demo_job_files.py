"""Job files of a run: they load, and differ only in the settings of their processes."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monolith_demo.driver.job_files import CONFIGS, TEMPLATE, JobFiles, Services, to_toml, write_job_files
from monolith_py.config import JobConfig, load_job


def write(folder: Path, *, counters: bool = False) -> JobFiles:
    where = Services(f"sqlite:///{folder}/log", f"sqlite:///{folder}/kv.db", 1, 2, 3, 4, 5)
    return write_job_files(folder, where, counters=counters)


def write_list(folder: Path) -> JobFiles:
    where = Services(f"sqlite:///{folder}/log", f"sqlite:///{folder}/kv.db", 1, 2, 3, 4, 5, batch_ports=(6, 7))
    return write_job_files(folder, where, template=CONFIGS / "demo-list.toml", batch=("hourly", "daily"))


def differences(one: JobConfig, two: JobConfig) -> dict[str, tuple[Any, Any]]:
    """Return the settings that differ between two jobs."""

    def flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in settings.items():
            found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        return found

    first, second = flat(one.model_dump()), flat(two.model_dump())
    return {key: (first[key], second[key]) for key in first if first[key] != second[key]}


def test_a_run_has_the_demo_s_settings_with_its_own_paths_and_ports(tmp_path: Path) -> None:
    files = write(tmp_path)
    changes = differences(load_job(TEMPLATE), files.job)
    assert {key: new for key, (_, new) in changes.items()} == {
        "log.url": f"sqlite:///{tmp_path}/log",
        "kv.url": f"sqlite:///{tmp_path}/kv.db",
        "trainer.checkpoint_dir": f"{tmp_path}/checkpoints",
        "serving.port": 1,
        "serving.freshness_log": f"{tmp_path}/freshness.log",
        "observe.joiner_port": 3,
        "observe.trainer_port": 4,
        "observe.serving_port": 5,
    }


def test_the_frozen_replica_follows_nothing_and_logs_nothing(tmp_path: Path) -> None:
    files = write(tmp_path)
    changes = differences(files.job, load_job(files.frozen))
    assert {key: new for key, (_, new) in changes.items()} == {
        "trainer.checkpoint_dir": f"{tmp_path}/checkpoints-frozen",
        "serving.port": 2,
        "serving.follow_updates": False,
        "serving.log_impressions": False,
        "serving.freshness_log": None,
        "observe.joiner_port": 0,
        "observe.trainer_port": 0,
        "observe.serving_port": 0,
    }


def test_history_is_trained_with_all_cores_into_the_same_checkpoints(tmp_path: Path) -> None:
    files = write(tmp_path)
    assert differences(files.job, load_job(files.history)) == {"trainer.num_threads": (1, 0)}


def test_replicas_of_a_batch_refresh_follow_checkpoints_of_their_own(tmp_path: Path) -> None:
    files = write_list(tmp_path)
    assert list(files.replicas) == ["live", "hourly", "daily", "frozen"]
    frozen = load_job(files.frozen)
    for name, port in (("hourly", 6), ("daily", 7)):
        changes = differences(frozen, load_job(files.replicas[name]))
        assert {key: new for key, (_, new) in changes.items()} == {
            "trainer.checkpoint_dir": f"{tmp_path}/checkpoints-{name}",
            "serving.port": port,
            "serving.follow_checkpoints": True,
        }
    assert files.job.serving.follow_updates and not files.job.counters.enabled


def test_the_shadow_has_the_frozen_model_under_a_name_of_its_own(tmp_path: Path) -> None:
    files = write(tmp_path)
    assert files.shadow is not None and files.follower is not None
    changes = differences(load_job(files.frozen), load_job(files.shadow))
    assert {key: new for key, (_, new) in changes.items()} == {
        "log.model_prefix": "shadow.",
        "serving.arm": "frozen",
        "shadow.max_lag_s": 60.0,
    }
    follower = differences(files.job, load_job(files.follower))
    assert follower.keys() == {
        "serving.log_impressions",
        "serving.freshness_log",
        *(f"observe.{name}_port" for name in ("joiner", "trainer", "serving")),
    }
    assert write_list(tmp_path).shadow is None


def test_the_demo_without_a_batch_refresh_has_two_replicas(tmp_path: Path) -> None:
    assert list(write(tmp_path).replicas) == ["live", "frozen"]


@pytest.mark.parametrize("counters", [False, True])
def test_counters_are_on_when_they_are_asked_for(tmp_path: Path, counters: bool) -> None:
    files = write(tmp_path, counters=counters)
    assert [files.job.counters.enabled, load_job(files.frozen).counters.enabled] == [counters, counters]


@pytest.mark.parametrize("name", ["with space", "quote'\"s", "back\\slash", "\u77ed\u89c6\u9891", "\U0001f3ac"])
def test_the_run_folder_may_have_any_name(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    assert write(folder).job.trainer.checkpoint_dir == f"{folder}/checkpoints"


KEYS = st.from_regex(r"[a-z_]{1,6}", fullmatch=True)
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\x7f"), max_size=6)
PLAIN = st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS
VALUES = PLAIN | st.lists(PLAIN, max_size=3)
TABLES = st.dictionaries(KEYS, VALUES | st.dictionaries(KEYS, VALUES, max_size=3), max_size=4)
DOCUMENTS = st.dictionaries(KEYS, VALUES | TABLES | st.lists(st.dictionaries(KEYS, VALUES, max_size=3), min_size=1, max_size=3), max_size=5)


@given(DOCUMENTS)
def test_what_is_written_as_toml_reads_as_it_was(document: dict[str, Any]) -> None:
    assert tomllib.loads(to_toml(document)) == document


@pytest.mark.parametrize("template", ["demo.toml", "demo-list.toml"])
def test_the_template_survives_being_written(template: str) -> None:
    document = tomllib.loads((CONFIGS / template).read_text())
    assert tomllib.loads(to_toml(document)) == document
