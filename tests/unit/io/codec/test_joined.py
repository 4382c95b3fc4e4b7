"""Schemas of the records of the joiner's core are those of the Python codec, whatever the texts of their metadata."""

import numpy as np
import pytest

from monolith_py import _core
from monolith_py.config import parse_job
from monolith_py.data.columns import FeatureColumns, SparseColumn
from monolith_py.data.events import Impression
from monolith_py.data.schema import Schema
from monolith_py.io.codec import encode_examples, encode_impression
from monolith_py.io.codec.examples import decode_examples_record
from monolith_py.io.codec.joined import encode_joined
from monolith_streaming.joiner.core_partition import CorePartition, core_settings
from monolith_streaming.joiner.position import Position, Progress
from monolith_streaming.joiner.rules import Rules

JOB = parse_job(
    {
        "name": "joined",
        "log": {"url": "sqlite:///log"},
        "kv": {"url": "sqlite:///kv.db"},
        "features": [{"name": "country", "source": "user"}],
        "dense_features": [{"name": "age", "source": "user", "dim": 2}],
        "tasks": [{"name": "is_click", "action": "click"}],
        "joiner": {"window_s": 60},
        "trainer": {"checkpoint_dir": "checkpoints"},
    }
)
NOW_MS = 1_700_000_000_000


@pytest.fixture
def core() -> _core.JoinerPartition:
    rules = Rules.of(JOB)
    core = CorePartition(core_settings(JOB, rules, Schema.of(JOB).dense_dims), rules, Position(Progress([0, 0]), 0), 0.0).core
    country = SparseColumn(np.array([7], np.int64), np.ones(1, np.int32))
    shared = FeatureColumns(1, {"country": country}, {"age": np.array([[0.5, 1.0]], np.float32)})
    item, scores = np.array([3], np.int64), np.array([[0.25]], np.float32)
    one = Impression("r1", NOW_MS, 1, item, shared, FeatureColumns(1, {}, {}), scores, ("is_click",), "4")
    core.push(0, [0], [encode_impression(one)], 10, NOW_MS, lambda value: f"must be read by the core, got {value!r}")
    core.run(0.0, NOW_MS)
    assert not core.close_some()
    return core


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"step": "[1,2]"},
        {"step": "[3,4]"},
        {"step": "[3,40]"},
        {"step": "", "joiner": "{}"},
        {"joiner": '{"topic": "Größe"}', "step": "xxxxx", "empty": ""},
        {"joiner": "     ", "step": "x x x"},
    ],
)
def test_schema_of_a_record_is_that_of_the_python_codec(core: _core.JoinerPartition, metadata: dict[str, str]) -> None:
    value = encode_joined(core.written().examples(0, 1), ["is_click"], metadata)
    examples, texts = decode_examples_record(value)
    assert texts == metadata
    num_bytes = 8 + int.from_bytes(value[4:8], "little")  # of the message of the schema
    assert value[:num_bytes] == encode_examples(examples, metadata)[:num_bytes]
    assert list(examples.features.sparse) == ["country"] and examples.served is not None


def test_own_entries_of_the_codec_are_refused(core: _core.JoinerPartition) -> None:
    with pytest.raises(ValueError, match=r"metadata keys must not begin with 'monolith\.'"):
        encode_joined(core.written().examples(0, 1), ["is_click"], {"monolith.examples": "2"})
