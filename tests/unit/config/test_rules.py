"""Settings that a process would refuse, or that would have no effect, are refused when they are read."""

from __future__ import annotations

import tomllib
from dataclasses import fields
from typing import Any

import pytest

from monolith_py.config import parse_job
from monolith_py.config.optimizer import _OF_ALL, _OF_KIND
from monolith_py.errors import ConfigError
from monolith_py.table import optimizers

SMALLEST = """
name = "shop"
log.url = "sqlite:///log"
kv.url = "memory:"
features = [{name = "user_id", source = "user_id"}]
tasks = [{name = "is_click", action = "click"}]
trainer.checkpoint_dir = "checkpoints"
"""


def changed(change: str) -> dict[str, Any]:
    document = tomllib.loads(SMALLEST)
    for key, value in tomllib.loads(change).items():
        document[key] = {**document.get(key, {}), **value} if isinstance(value, dict) else value
    return document


def feature(settings: str) -> str:
    return f'features = [{{name = "user_id", source = "user_id"}}, {{name = "video_id", source = "item_id", {settings}}}]'


REFUSED = {
    # Bounds of the types that hold the values.
    feature("ttl_s = 9223372036854775807"): "features.video_id.ttl_s must be <= 3155760000, got 9223372036854775807",
    feature("ttl_s = 9223372036854775808"): "features.video_id.ttl_s must be <= 3155760000, got 9223372036854775808",
    feature("init_scale = 1e39"): "features.video_id.init_scale must be <= 1000000, got 1e+39",
    feature("budget_bytes = 9223372036854775808"): "features.video_id.budget_bytes must be <= 9223372036854775807, got 9223372036854775808",
    feature('admission = "sketch", sketch_bytes = 2199023255552'): (
        "features.video_id.sketch_bytes must be <= 1099511627776, got 2199023255552"
    ),
    "optimizer.sparse.lr = 1e39": "optimizer.sparse.lr must be within float32, 1.18e-38 to 3.4e+38, got 1e+39",
    "optimizer.sparse.eps = 1e-50": "optimizer.sparse.eps must be within float32, 1.18e-38 to 3.4e+38, got 1e-50",
    "optimizer.dense.beta2 = 0.99999999999": "optimizer.dense.beta2 must be below 1 in float32, got 0.99999999999",
    "joiner.window_s = 1e300": "joiner.window_s must be <= 3155760000, got 1e+300",
    'joiner.negative_rates = [{feature = "place", value = 1, rate = 0.5}]': (
        "joiner.negative_rates.feature must name features, got ['place']"
    ),
    'joiner.negative_rates = [{feature = "user_id", value = 1, rate = 0.5}, {feature = "user_id", value = 1, rate = 1}]': (
        "joiner.negative_rates must have each value of a feature once, got ('user_id', 1) twice"
    ),
    'joiner.negative_rates = [{feature = "user_id", value = 1, rate = 0}]': "joiner.negative_rates.#1.rate must be >= 1e-06, got 0",
    'joiner.negative_rates = [{feature = "user_id", value = "", rate = 1}]': (
        "joiner.negative_rates.#1.value must have 1 to 512 characters, got ''"
    ),
    'joiner.negative_rates = [{feature = "user_id", value = 9223372036854775808, rate = 1}]': (
        "joiner.negative_rates.#1.value must be within int64, got 9223372036854775808"
    ),
    'joiner = {emit = "window", terminal_actions = ["play_end"]}': (
        "joiner.terminal_actions must be empty with emit = \"window\", got ['play_end']"
    ),
    "joiner.negative_rate = 1e-320": "joiner.negative_rate must be >= 1e-06, got 1e-320",
    "trainer.batch_size = 9223372036854775808": "trainer.batch_size must be <= 2147483647, got 9223372036854775808",
    "trainer.num_threads = 100000": "trainer.num_threads must be <= 1024, got 100000",
    "model.tower = [64, 10000000000]": "model.tower.#2 must be <= 65536, got 10000000000",
    'trainer.checkpoint_dir = "a\\u0000b"': "trainer.checkpoint_dir must have no NUL character, got 'a\\x00b'",
    f'log.topic_prefix = "{"p" * 201}"': f"log.topic_prefix must have at most 200 characters, got '{'p' * 199}...",
    'serving.device = "cuda"\nserving.engine = "core"': "serving.engine must be 'auto' or 'fbgemm' with device = 'cuda', got 'core'",
    # Addresses.
    'log.url = "kafka://broker:9o92"': "log.url must be kafka://host:port[,host:port], got 'kafka://broker:9o92'",
    'log.url = "kafka://a:9092,,b:9092"': "log.url must be kafka://host:port[,host:port], got 'kafka://a:9092,,b:9092'",
    'log.url = "kafka://user:secret@broker:9092"': "log.url must be kafka://host:port[,host:port], got 'kafka://***@broker:9092'",
    'kv.url = "redis://host:99999/0"': "kv.url must be redis://host:port/db, with a number as db, got 'redis://host:99999/0'",
    'kv.url = "redis://host:6379/db"': "kv.url must be redis://host:port/db, with a number as db, got 'redis://host:6379/db'",
    'kv.url = "redis://:p@ss/word@host:6379/0"': "kv.url must hold no password, got one: set the environment variable MONOLITH_KV_PASSWORD",
    # Ports.
    "observe.trainer_port = 50051": "observe.trainer_port must differ from serving.port, got 50051 for both",
    "observe = {joiner_port = 9100, serving_port = 9100}": ("observe.serving_port must differ from observe.joiner_port, got 9100 for both"),
    'optimizer.sparse = {kind = "ftrl", initial_accumulator = 0}': (
        "optimizer.sparse.beta or initial_accumulator must be > 0 with 'ftrl', got 0 for both"
    ),
    'optimizer.sparse = {kind = "group_ftrl", beta = 0.0}': (
        "optimizer.sparse.beta or initial_accumulator must be > 0 with 'group_ftrl', got 0 for both"
    ),
    # Settings without effect.
    'optimizer.sparse = {kind = "adam", rho = 0.5}': (
        "optimizer.sparse.rho must come with kind = 'adadelta', 'rmsprop', got 0.5 with 'adam'"
    ),
    "optimizer.sparse.l2 = 0.0": (
        "optimizer.sparse.l2 must come with kind = 'ftrl', 'group_adagrad', 'group_ftrl', got 0.0 with 'adagrad'"
    ),
    'optimizer.dense = {kind = "sgd", eps = 1e-6}': "optimizer.dense.eps must come with kind = 'adam' or 'adagrad', got 1e-06 without",
    "model.bottom = [16]": "model.bottom must come with kind = 'dlrm', got [16] without",
    'model = {kind = "dlrm", bottom = [16]}': "model.bottom must come with dense features, got [16] without",
    "model.cross_layers = 2": "model.cross_layers must come with kind = 'dcn', got 2 without",
    "model.cross_rank = 8": "model.cross_rank must come with kind = 'dcn', got 8 without",
    'model.structure = "parallel"': "model.structure must come with kind = 'dcn', got 'parallel' without",
    'model = {kind = "dcn", tower = [], structure = "parallel"}': (
        "model.structure must be 'stacked' without a layer in model.tower, got 'parallel'"
    ),
    "model = {tower = [], dropout = 0.1}": "model.dropout must come with a layer in model.tower, got 0.1 without",
    'model = {tower = [], sparsity = {preset = "dsl"}}': "model.sparsity.preset must come with a layer in model.tower, got 'dsl' without",
    "model = {tower = [], experts = {count = 2}}": "model.experts must come with a layer in model.tower, got none",
    'model = {kind = "dcn", structure = "parallel", experts = {count = 2}}': (
        "model.structure must be 'stacked' with model.experts, got 'parallel'"
    ),
    "model.experts = {count = 1}": "model.experts.count must be 0 or >= 2, got 1",
    'model.experts = {gate = "top_k"}': "model.experts.gate must come with count, got 'top_k' without",
    "model.experts = {count = 2, top_k = 2}": "model.experts.top_k must come with a gate other than 'softmax', got 2 without",
    'model.experts = {count = 2, gate = "top_k", ramp_examples = 5}': (
        "model.experts.ramp_examples must come with gate = 'dense_to_sparse', 'tree' or 'random', got 5 without"
    ),
    "model.experts = {count = 2, temperature = 3.0}": (
        "model.experts.temperature must come with gate = 'dense_to_sparse', got 3.0 without"
    ),
    "model.experts = {count = 2, entropy = 0.1}": "model.experts.entropy must come with gate = 'tree', got 0.1 without",
    'model.experts = {count = 2, gate = "random", balance = 0.1}': (
        "model.experts.balance must come with a gate other than 'random', got 0.1 without"
    ),
    'model.experts = {gate = "top_k", count = 2, top_k = 3}': "model.experts.top_k must be at most model.experts.count, 2, got 3",
    'model.experts = {gate = "tree", count = 6}': "model.experts.count must be a power of 2 with gate = 'tree', got 6",
    'features = [{name = "tags", source = "item", attend_to = "user_id"}]': (
        "features.tags.attend_to must come with pooling = 'first', got 'user_id' without"
    ),
    'features = [{name = "tags", source = "item", attention = [8]}]': "features.tags.attention must come with attend_to, got (8,) without",
    'features = [{name = "tags", source = "item", pooling = "first", length = 2, attend_to = "item"}]': (
        "features.tags.attend_to must name a feature that is no sequence, got 'item'"
    ),
    'features = [{name = "a", source = "item"}, {name = "b", source = "user", dim = 8, pooling = "first", length = 2, attend_to = "a"}]': (
        "features.b.dim must be that of a, to which it attends, 16, got 8"
    ),
    "counters.enabled = true": "counters.keys must name a feature with counters.enabled, got ()",
    "serving = {feature_cache_s = 0.0, feature_cache_entries = 5}": (
        "serving.feature_cache_entries must come with feature_cache_s above 0, got 5 without"
    ),
    "serving = {channel = 'stable'}": "serving.channel must come with follow_updates = false, got 'stable' without",
    "serving = {follow_updates = false, max_staleness_s = 30.0}": (
        "serving.max_staleness_s must come with follow_updates or follow_checkpoints, got 30.0 without"
    ),
    # Unknown keys, with a suggestion; their values may be misplaced secrets.
    "joiner.windows_s = 5": "joiner.windows_s is not a setting: did you mean window_s?",
    "trainer.window_s = 5": "trainer.window_s is not a setting: did you mean joiner.window_s?",
    "join.window_s = 5": "join is not a setting: did you mean joiner?",
    'kv.password = "hunter2"': "kv.password is not a setting",
    feature("tll_s = 60"): "features.video_id.tll_s is not a setting: did you mean ttl_s?",
    "features = [{dim = 8, source = 'item'}]": "features.#1.name must be set, got no value",
}


@pytest.mark.parametrize("change", REFUSED)
def test_a_setting_that_a_process_would_refuse_is_refused(change: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_job(changed(change))
    assert str(caught.value) == REFUSED[change]


@pytest.mark.parametrize(
    "change",
    [
        feature("ttl_s = 3155760000"),
        "optimizer.sparse = {lr = 1.2e-38, eps = 3.4e38, clip_norm = 0}",
        "observe = {joiner_port = 0, trainer_port = 0}",
        'log.url = "kafka://[::1]:9092,b/"',
        'kv.url = "rediss://user@host/0?health_check_interval=5"',
        'optimizer.sparse = {kind = "ftrl", l2 = 0.0}',
        'counters.keys = ["user_id"]',
    ],
)
def test_a_setting_that_a_process_takes_is_taken(change: str) -> None:
    parse_job(changed(change))


def test_the_settings_of_each_rule_are_those_of_its_class() -> None:
    rules = {rule.kind: rule for rule in optimizers._RULES}
    assert {kind: {field.name for field in fields(rule)} for kind, rule in rules.items()} == {
        kind: {*_OF_ALL, *names} for kind, names in _OF_KIND.items()
    }
