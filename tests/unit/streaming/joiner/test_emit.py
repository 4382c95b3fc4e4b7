"""Features of an impression reach its examples."""

from __future__ import annotations

from typing import Any

import numpy as np

from monolith_py.data.examples import ExampleBatch
from monolith_py.data.served import ServedModel


def test_the_world_s_features_reach_the_example(world: Any) -> None:
    job = world.job()
    log = world.log(job)
    world.append(job, log, world.impression("r", items=(1, 2)))
    world.join(job, log)
    features = {item: row for _, item, _, _, _, _, row in world.examples(job, log)}
    user = sum(b"r")
    assert features[1] == (("tags", (10,)), ("user", (user,)), ("age", (1.0, 1.5)))
    assert features[2] == (("tags", (20, 20)), ("user", (user,)), ("age", (2.0, 2.5)))


def test_served_scores_reach_the_example_with_their_model(world: Any) -> None:
    job = world.job()
    log = world.log(job)
    scores = np.array([[0.25, 0.5], [0.75, 1.5]], np.float32)  # no probability is above 1
    world.append(
        job,
        log,
        world.impression("r", items=(1, 2), scores=scores, task_names=("is_like", "is_click"), model_version="3.41", arm="trial"),
        world.impression("without", items=(1,)),
        world.impression("s", 1, scores=np.array([[0.125]], np.float32), task_names=("is_like",), model_version="3.42", arm="trial"),
    )
    world.join(job, log)
    examples = ExampleBatch.concat(world.batches(job, log))
    served = examples.served
    assert served is not None
    rows = {
        (request_id, item): (served.models[code], *(float(values[row]) for values in served.scores.values()))
        for row, (request_id, item, code) in enumerate(
            zip(examples.request_ids, examples.item_ids.tolist(), served.model_codes.tolist(), strict=True)
        )
    }
    assert list(served.scores) == ["is_click", "is_like"]
    assert rows["r", 1] == (ServedModel("trial", "3.41"), 0.5, 0.25)
    assert rows["s", 1][0] == ServedModel("trial", "3.42") and rows["s", 1][2] == 0.125
    assert rows["r", 2][2] == 0.75 and np.isnan([rows["r", 2][1], rows["s", 1][1], *rows["without", 1][1:]]).all()
    assert rows["without", 1][0] == ServedModel("", "")
