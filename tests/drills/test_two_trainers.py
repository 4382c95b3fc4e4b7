"""Two trainers of one job with checkpoints of their own: the second takes over, and their deltas never mix."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sound_stream import GAP_MS, LEAD, SoundStream
from surroundings import Deployment, now_ms, wait_until

from monolith_py.sync import decode_delta


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", pytest.param("kafka", marks=pytest.mark.needs_kafka)])
def test_a_second_trainer_fences_the_first(kind: str, deploy: Callable[..., Deployment], request: pytest.FixtureRequest) -> None:
    log = {} if kind == "sqlite" else {"url": request.getfixturevalue("broker").url, "topic_prefix": "trainers."}
    drill = deploy(log=log)
    stream = SoundStream(drill, now_ms() - 3 * LEAD * GAP_MS)
    stream.append(2 * LEAD)
    stream.end()
    drill.run("join", "--stop-at-end")
    first = drill.start("train")
    wait_until(lambda: "published generation 1" in first.said(), [first])
    other = drill.folder / "other.toml"
    other.write_text(drill.config.read_text().replace("/checkpoints", "/other"))
    second = drill.start("train", "--config", str(other), "--fresh")
    first.must_refuse("Fenced")
    wait_until(lambda: "published generation 2" in second.said(), [second])
    second.stop()
    generations = [decode_delta(record.value).generation for record in drill.records(drill.topics.updates)]
    assert generations == sorted(generations) and set(generations) == {1, 2}
