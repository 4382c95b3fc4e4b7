"""Settings: a broken rule is an error with field, rule and value; a setting left out has its default.

Longer than 300 lines: half of it is the list of refused settings and their texts.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from monolith_py.config import (
    JobConfig,
    JoinerConfig,
    ServingConfig,
    SparsityConfig,
    SyncConfig,
    TrainerConfig,
    load_job,
    parse_job,
)
from monolith_py.config.fields import Settings
from monolith_py.data.schema import Schema
from monolith_py.errors import ConfigError

CONFIGS = sorted((Path(__file__).parents[3] / "deploy" / "configs").glob("*.toml"))
SMALLEST = """
name = "shop"
[log]
url = "sqlite:///log"
[kv]
url = "memory:"
[[features]]
name = "user_id"
source = "user_id"
[[tasks]]
name = "is_click"
action = "click"
[trainer]
checkpoint_dir = "checkpoints"
"""


def changed(change: str = "", without: str = "") -> dict[str, Any]:
    """The smallest job, with the keys of `change` set and the key `without` ("section" or "section.key") removed."""
    document = tomllib.loads(SMALLEST)
    for key, value in tomllib.loads(change).items():
        if isinstance(value, dict) and isinstance(document.get(key), dict):
            document[key] = {**document[key], **value}
        else:
            document[key] = value
    if without:
        *sections, key = without.split(".")
        owner = document
        for section in sections:
            owner = owner[section]
        del owner[key]
    return document


FEATURE = '[[features]]\nname = "user_id"\nsource = "user_id"\n'

REFUSED = [
    ("colour = 1", "colour is not a setting"),
    ("joiner.windows_s = 5", "joiner.windows_s is not a setting: did you mean window_s?"),
    ("optimizer.sparse.mass = 0.9", "optimizer.sparse.mass is not a setting"),
    (FEATURE + "width = 8", "features.user_id.width is not a setting"),
    ('seed = "1"', "seed must be an integer, got '1'"),
    ("seed = true", "seed must be an integer, got True"),
    ("seed = -1", "seed must be >= 0, got -1"),
    ("seed = 9223372036854775808", "seed must be < 9223372036854775808, got 9223372036854775808"),
    ("name = 'two words'", "name must match ^[A-Za-z_][A-Za-z0-9_]*$, got 'two words'"),
    ("log = 3", "log must be a table of settings, got 3"),
    ("log.url = 'http://x'", "log.url must match ^(sqlite:///.+|kafka://.+)$, got 'http://x'"),
    ("log.partitions = 0", "log.partitions must be >= 1, got 0"),
    ("features = []", "features must have at least 1 item(s), got 0"),
    (FEATURE + "dim = 6", "features.dim of the widest feature must be a multiple of 4, got 6"),
    (FEATURE + "dim = 1", "features.dim of the widest feature must be a multiple of 4, got 1"),
    (FEATURE + "dim = 16.0", "features.user_id.dim must be an integer, got 16.0"),
    (FEATURE + "dim = 2048", "features.user_id.dim must be <= 1024, got 2048"),
    (FEATURE + "ttl_s = 0", "features.user_id.ttl_s must be >= 1, got 0"),
    (FEATURE + 'pooling = "max"', "features.user_id.pooling must be 'sum', 'mean' or 'first', got 'max'"),
    (
        FEATURE + 'initializer = "ones"',
        "features.user_id.initializer must be 'zeros', 'constant', 'uniform', 'normal' or 'xavier', got 'ones'",
    ),
    (FEATURE + "init_scale = -0.1", "features.user_id.init_scale must be >= 0, got -0.1"),
    (FEATURE + "admit_after = 65536", "features.user_id.admit_after must be <= 65535, got 65536"),
    (
        FEATURE + 'admission = "luck"',
        "features.user_id.admission must be 'count', 'sketch', 'proportional' or 'geometric', got 'luck'",
    ),
    (FEATURE + 'admission = "sketch"\nsketch_bytes = 63', "features.user_id.sketch_bytes must be >= 64, got 63"),
    (FEATURE + "budget_bytes = 0", "features.user_id.budget_bytes must be >= 1, got 0"),
    (FEATURE + 'budget_bytes = 1\neviction = "fifo"', "features.user_id.eviction must be 'lru', 'lfu' or 'score', got 'fifo'"),
    (FEATURE + "sketch_bytes = 4096", "features.user_id.sketch_bytes must come with admission = 'sketch', got 4096 without"),
    (
        FEATURE + 'admission = "geometric"\nsketch_window_s = 60',
        "features.user_id.sketch_window_s must come with admission = 'sketch', got 60 without",
    ),
    (FEATURE + 'eviction = "lfu"', "features.user_id.eviction must come with budget_bytes, got 'lfu' without"),
    (FEATURE + "half_life_s = 60", "features.user_id.half_life_s must come with budget_bytes, got 60 without"),
    (
        FEATURE + 'budget_bytes = 4096\neviction = "lru"\nhalf_life_s = 60',
        "features.user_id.half_life_s must come with eviction = 'score', got 60 without",
    ),
    (
        FEATURE + 'initializer = "zeros"\ninit_scale = 0.5',
        "features.user_id.init_scale must come with an initializer other than 'zeros', got 0.5 without",
    ),
    (
        'optimizer.sparse.kind = "lion"',
        "optimizer.sparse.kind must be 'sgd', 'momentum', 'adagrad', 'rowwise_adagrad', 'adadelta', "
        "'rmsprop', 'adam', 'amsgrad', 'adamw', 'ftrl', 'group_adagrad' or 'group_ftrl', got 'lion'",
    ),
    ("optimizer.sparse.lr = 0", "optimizer.sparse.lr must be > 0, got 0"),
    ("optimizer.sparse.clip_norm = -1", "optimizer.sparse.clip_norm must be >= 0, got -1"),
    ("optimizer.sparse.beta1 = 1.0", "optimizer.sparse.beta1 must be < 1, got 1.0"),
    (FEATURE + FEATURE, "features.name must be unique, got ['user_id'] more than once"),
    (
        '[[dense_features]]\nname = "user_id"\nsource = "user"',
        "features.name must be unique, got ['user_id'] more than once",
    ),
    (
        'counters.keys = ["user_id"]\n[[dense_features]]\nname = "counter_user_id"\nsource = "user"',
        "features.name must be unique, got ['counter_user_id'] more than once",
    ),
    ('counters.keys = ["user_id", "user_id"]', "features.name must be unique, got ['counter_user_id'] more than once"),
    ('counters.keys = ["color"]', "counters.keys must name features, got ['color']"),
    (
        '[[dense_features]]\nname = "seen"\nsource = "counter"',
        "dense_features.source must be user, item, context or candidate: counter features come from counters.keys, got ['seen']",
    ),
    (
        'model.sparsity = {preset="dsl", grow_criterion="momentum"}\noptimizer.dense.kind = "sgd"',
        "optimizer.dense.kind must be 'adam' with model.sparsity.grow_criterion = 'momentum', got 'sgd'",
    ),
    ('optimizer.dense = {kind="sgd", beta1=0.8}', "optimizer.dense.beta1 must come with kind = 'adam', got 0.8 without"),
    ('tasks = [{name="a", action="x"}, {name="a", action="y"}]', "tasks.name must be unique, got ['a'] more than once"),
    ('tasks = [{name="a", action=""}]', "tasks.a.action must have at least 1 character(s), got ''"),
    (FEATURE + 'pooling = "first"', "features.user_id.length must be >= 1 with pooling = 'first', got 0"),
    (FEATURE + "length = 3", "features.user_id.length must come with pooling = 'first', got 3 without"),
    (FEATURE + 'encoding = "int2"', "features.user_id.encoding must be 'fp32', 'fp16', 'int8' or 'int4', got 'int2'"),
    ('model = {kind = "dlrm", bottom = [32, 8]}', "model.bottom must end with the greatest features.dim, 16, got [32, 8]"),
    ("model.tower = [64, 0]", "model.tower.#2 must be >= 1, got 0"),
    ("model.dropout = 1.0", "model.dropout must be < 1, got 1.0"),
    ("joiner.window_s = 0", "joiner.window_s must be > 0, got 0"),
    ("joiner.window_s = inf", "joiner.window_s must be finite, got inf"),
    ("joiner.max_out_of_orderness_s = nan", "joiner.max_out_of_orderness_s must be finite, got nan"),
    ("joiner.negative_rate = 1.5", "joiner.negative_rate must be <= 1, got 1.5"),
    ("serving.port = 65536", "serving.port must be <= 65535, got 65536"),
    ("sync.sparse_interval_s = 2022-05-01", "sync.sparse_interval_s must be a number, got datetime.date(2022, 5, 1)"),
]


def test_a_job_needs_six_settings_and_the_others_have_their_defaults() -> None:
    job = parse_job(changed())
    assert (job.features[0].dim, job.features[0].pooling, job.features[0].admit_after, job.features[0].ttl_s) == (16, "sum", 1, None)
    assert (job.model.kind, job.model.tower, job.optimizer.sparse.kind) == ("deepfm", (256, 128, 64), "adagrad")
    assert (job.joiner.window_s, job.joiner.negative_rate, job.sync.sparse_interval_s, job.serving.port) == (600.0, 1.0, 0.1, 50051)
    assert not job.counters.enabled


@pytest.mark.parametrize(("change", "message"), REFUSED, ids=range(len(REFUSED)))
def test_a_broken_rule_is_told_with_field_value_and_rule_and_nothing_besides(change: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_job(changed(change))
    assert str(caught.value) == message


@pytest.mark.parametrize("without", ["name", "log", "log.url", "kv", "features", "tasks", "trainer", "trainer.checkpoint_dir"])
def test_what_is_missing_is_named(without: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_job(changed(without=without))
    assert str(caught.value) == f"{without} must be set, got no value"


def test_all_broken_rules_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_job(changed("colour = 1\nlog.partitions = 0", without="kv"))
    assert sorted(str(caught.value).splitlines()) == [
        "colour is not a setting",
        "kv must be set, got no value",
        "log.partitions must be >= 1, got 0",
    ]


def test_settings_cannot_be_changed_afterwards() -> None:
    job = parse_job(changed())
    with pytest.raises(ValueError, match="frozen"):
        job.seed = 3  # type: ignore[misc]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_the_shipped_settings_load(path: Path) -> None:
    assert load_job(path).name == tomllib.loads(path.read_text())["name"]


def test_there_are_shipped_settings() -> None:
    assert {"demo.toml", "compose.toml"} <= {path.name for path in CONFIGS}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file or directory"),
        (b"name = ", "Invalid value"),
        (b"\xff\xfe", "can't decode"),
        (
            SMALLEST.replace("memory:", "disk:").encode(),
            "kv.url must be memory: or begin with sqlite:///, redis://",
        ),
    ],
    ids=["absent", "no TOML", "no text", "broken rule"],
)
def test_a_file_that_cannot_be_loaded_is_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "job.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        load_job(path)
    assert str(caught.value).startswith(f"{path}: ")


Place = tuple[str | int, ...]


def paths_below(model: type[BaseModel], prefix: Place = ()) -> Iterator[Place]:
    """Return the path of each setting, with those of the first item of each array."""
    for name, field in model.model_fields.items():
        yield (*prefix, name)
        for kind, item in ((field.annotation, ()), *((inner, (0,)) for inner in get_args(field.annotation))):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from paths_below(kind, (*prefix, name, *item))


PATHS = sorted(paths_below(JobConfig), key=str)
FIELDS = sorted({str(path[-1]) for path in PATHS})
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(1, 64)
    | st.sampled_from([10**400, 2**63, float("inf"), float("nan"), date(2022, 5, 1), b"bytes", "\ud800", "memory:", "user", "click"])
    | st.floats()
    | st.text(max_size=8)
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=4) | st.integers(), inner, max_size=3)
    ),
    max_leaves=8,
)


@st.composite
def documents(draw: st.DrawFn) -> dict[Any, Any]:
    """A job's settings with some of them, at any depth, replaced by anything."""
    document: dict[Any, Any] = changed('[[dense_features]]\nname = "age"\nsource = "user"')
    for *sections, key in draw(st.lists(st.sampled_from(PATHS), min_size=1, max_size=3)):
        owner: Any = document
        for section in sections:
            if isinstance(owner, dict):
                owner = owner.setdefault(section, {})
            elif isinstance(owner, list) and owner:
                owner = owner[section]
        if isinstance(owner, dict):
            owner[key] = draw(LEAVES | VALUES)
    return document


def check(document: dict[Any, Any]) -> None:
    try:
        job = parse_job(document)
    except ConfigError:  # and nothing else
        return
    assert parse_job(job.model_dump()) == job
    schema = Schema.of(job)
    names = schema.sparse_names + schema.dense_names
    assert len(set(names)) == len(names)


@given(documents())
def test_a_job_with_any_value_of_a_setting_loads_or_is_a_config_error(document: dict[Any, Any]) -> None:
    check(document)


@given(st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=4) | st.integers(), VALUES, max_size=6))
def test_any_document_loads_or_is_a_config_error(document: dict[Any, Any]) -> None:
    check(document)


def renamed_keys() -> list[Any]:
    """Return every former key with its section and its present name."""
    sections = {
        "joiner": JoinerConfig,
        "trainer": TrainerConfig,
        "serving": ServingConfig,
        "sync": SyncConfig,
        "model.sparsity": SparsityConfig,
    }
    assert set(sections.values()) == {model for model in Settings.__subclasses__() if model.renamed}
    return [
        pytest.param(section, old, new, id=f"{section}.{old}") for section, model in sections.items() for old, new in model.renamed.items()
    ]


@pytest.mark.parametrize(("section", "old", "new"), renamed_keys())
def test_a_renamed_key_fails_with_its_present_name(section: str, old: str, new: str) -> None:
    rule = re.escape(f"{section}.{old} is not a setting any more: it is now {section}.{new}")
    with pytest.raises(ConfigError, match=rule):
        parse_job(changed(f"{section}.{old} = 1"))


def test_all_renamed_keys_of_a_section_are_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_job(changed("joiner.idle_s = 1\njoiner.closing_actions = []"))
    assert str(caught.value).splitlines() == [
        "joiner.idle_s is not a setting any more: it is now joiner.idle_timeout_s",
        "joiner.closing_actions is not a setting any more: it is now joiner.terminal_actions",
    ]


@pytest.mark.parametrize(
    "url", ["redis://:secret@host:6379/0", "redis://:s/ecret@host", "unix:///run/redis.sock?password=secret", "reddis://:secret@h"]
)
def test_a_password_in_the_job_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_job(tomllib.loads(SMALLEST.replace("memory:", url)))
    assert "ecret" not in str(caught.value)
    assert "kv.url must" in str(caught.value)
