"""Features of an impression reach its examples."""

from __future__ import annotations

from typing import Any


def test_the_world_s_features_reach_the_example(world: Any) -> None:
    job = world.job()
    log = world.log(job)
    world.append(job, log, world.impression("r", items=(1, 2)))
    world.join(job, log)
    features = {item: row for _, item, _, _, _, _, row in world.examples(job, log)}
    user = sum(b"r")
    assert features[1] == (("tags", (10,)), ("user", (user,)), ("age", (1.0, 1.5)))
    assert features[2] == (("tags", (20, 20)), ("user", (user,)), ("age", (2.0, 2.5)))
