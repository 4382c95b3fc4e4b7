"""Each bad record becomes one dead letter with field, rule and value, and the joiner reads on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monolith_py.errors import ConfigError, TopicMissing, WireError
from monolith_py.io.codec import decode_impression, encode_action, encode_impression
from monolith_py.io.codec.impression_view import parse_impression
from monolith_py.io.codec.wire_patterns import WirePatterns
from monolith_py.pb import example_pb2 as pb
from monolith_streaming.joiner.process import run_joiner

World = Any
Change = Callable[[pb.Impression], object]

BROKEN: dict[str, tuple[Change, str]] = {
    "no request id": (lambda m: m.ClearField("request_id"), "impression.request_id must not be empty, got ''"),
    "no time": (lambda m: m.ClearField("time_ms"), "impression.time_ms must be > 0, got 0"),
    "no candidate": (lambda m: m.ClearField("item_ids"), "impression.item_ids must have at least one candidate, got 0"),
    "scores missing": (lambda m: m.task_names.append("is_click"), "impression.scores must have 2 candidates x 1 tasks, got 0 values"),
    "fids missing": (lambda m: m.candidates.sparse.add(name="x", fids=[1]), "impression.candidates.x.fids must have one fid for each of 2"),
    "lengths too long": (
        lambda m: m.candidates.sparse.add(name="x", fids=[1, 2], lengths=[1, 2]),
        "impression.candidates.x.lengths must add up to 2 fids, got 3",
    ),
    "name twice": (lambda m: m.shared.sparse.add(name="user", fids=[1]), "impression.shared.sparse.name must be unique, got 'user' twice"),
    "name in both": (
        lambda m: m.candidates.sparse.add(name="user", fids=[1, 2]),
        "impression.candidates names must differ from those of impression.shared, got ['user'] in both",
    ),
    "not finite": (
        lambda m: m.candidates.dense.add(name="x", values=[1, float("nan")]),
        "impression.candidates.x.values must be finite, got nan",
    ),
    "wrong width": (
        lambda m: m.shared.dense.add(name="age", values=[1.0]) and m.candidates.ClearField("dense"),
        "impression.shared.age must have 1 rows x 2 values, got 1 values",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_malformed_impression_is_put_aside_with_its_reason_and_the_next_is_joined(world: World, name: str) -> None:
    change, reason = BROKEN[name]
    job = world.job()
    log = world.log(job)
    message = pb.Impression.FromString(encode_impression(world.impression("bad", items=(1, 2))))
    change(message)
    log.append("impressions", [message.SerializeToString()], time_ms=1)
    world.append(job, log, world.impression("good"))
    world.join(job, log)
    assert world.labels(job, log) == [("good", 1, "LABELLED", (0, 0))]
    ((topic, offset, got),) = world.dead_letters(job, log)
    assert (topic, offset) == ("impressions", 0)
    assert got.startswith(reason)


@pytest.mark.parametrize("topic", ["impressions", "actions"])
@pytest.mark.parametrize("value", [b"", b"\xff\xff\xff", b"not a message at all"])
def test_bytes_that_are_no_message_are_put_aside(world: World, topic: str, value: bytes) -> None:
    job = world.job()
    log = world.log(job)
    log.append(topic, [value], time_ms=1)
    world.append(job, log, world.impression("good"))
    world.join(job, log)
    assert world.labels(job, log) == [("good", 1, "LABELLED", (0, 0))]
    assert [(found, offset) for found, offset, _ in world.dead_letters(job, log)] == [(topic, 0)]


def test_a_nan_label_is_put_aside(world: World) -> None:
    job = world.job()
    log = world.log(job)
    world.append(job, log, world.impression("r"))
    log.append("actions", [encode_action(world.action("r", "click", 1, value=float("nan")))], time_ms=1)
    world.join(job, log)
    assert world.labels(job, log) == [("r", 1, "LABELLED", (0, 0))]
    assert world.dead_letters(job, log) == [("actions", 0, "action.value must be finite, got nan")]


def test_refused_records_of_a_lone_step_are_put_aside_too(world: World) -> None:
    job = world.job()
    log = world.log(job)
    log.append("actions", [b"\xff"], time_ms=1)
    world.join(job, log)
    assert len(world.dead_letters(job, log)) == 1


@given(position=st.integers(0, 10_000), value=st.integers(0, 255))
def test_the_joiner_refuses_what_decode_impression_refuses(world: World, position: int, value: int) -> None:
    patterns = WirePatterns({"age": 2})
    good = encode_impression(world.impression("r", items=(1, 4)))
    parse_impression(good, patterns)
    index = position % len(good)
    changed = good[:index] + bytes([value]) + good[index + 1 :]
    expected, got = reason_of(decode_impression, changed), reason_of(lambda value: parse_impression(value, patterns), changed)
    if expected is None and got is not None:
        assert "impression.candidates.age" in got or "in both" in got
    else:
        assert got == expected


def reason_of(decode: Callable[[bytes], object], value: bytes) -> str | None:
    try:
        decode(value)
    except WireError as error:
        return str(error)
    return None


def test_a_missing_topic_is_named(world: World) -> None:
    with pytest.raises(TopicMissing, match="'impressions'"):
        world.joiner(world.job(), world.MemoryLog())


def test_topics_of_unequal_partitions_are_refused(world: World) -> None:
    log = world.MemoryLog()
    for topic, num_partitions in (("impressions", 2), ("actions", 1), ("examples", 2)):
        log.create_topic(topic, num_partitions)
    with pytest.raises(ConfigError, match="topics must have the same number of partitions"):
        world.joiner(world.job(), log)


def test_a_store_that_dies_with_the_process_is_refused(world: World, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"kv\.url must be a store that outlives the joiner"):
        run_joiner(world.job(f"sqlite:///{tmp_path / 'log'}", "memory:"), stop_at_end=True)
