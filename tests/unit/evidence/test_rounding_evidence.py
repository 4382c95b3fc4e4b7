"""The evidence on the rounding of rows: each arm scores with rows in its encoding, and the page has a row for each."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import ModuleType

import numpy as np

NUM, FIRST = 160, 96


def test_every_arm_is_scored_with_rows_in_its_encoding(evidence: Callable[[str], ModuleType]) -> None:
    rounding, generator = evidence("rounding"), np.random.default_rng(3)
    users = generator.integers(1, 9, NUM)
    labels = (generator.random(NUM) < users / 9).astype(np.float32)
    none = np.zeros((NUM, 1), np.float32)
    fids = np.stack([users, generator.integers(10, 20, NUM)])
    stream = evidence("sync_stream").SyncStream(("user_id", "tab"), fids, none, none, labels, np.arange(NUM) * 30, FIRST)
    outcome = rounding.run(stream, 1)
    errors = [outcome.errors[encodings[0]] for encodings in list(rounding.ARMS.values())[:4]]
    assert errors[0] == 0 and 0 < errors[1] < errors[2] < errors[3] < 0.2
    assert outcome.figures.keys() == rounding.ARMS.keys() and outcome.num_rows == len(np.unique(fids))
    page = rounding.report(stream, [outcome, outcome], "Two of a seed.")
    rows = re.findall(r"^\| (?!---)(.+) \|$", page, re.MULTILINE)[1:]
    assert [row.split(" | ")[:2] for row in rows] == [
        ["fp32", "64"],
        ["fp16", "32"],
        ["int8", "20"],
        ["int4", "12"],
        ["int4, author and tab fp16", "12 and 32"],
    ]
    assert "nan" not in page.lower()


def test_a_replica_of_int4_scores_with_16_levels_a_row(evidence: Callable[[str], ModuleType]) -> None:
    rounding = evidence("rounding")
    stream = evidence("sync_stream").SyncStream(
        ("user_id", "tab"), np.ones((2, 8), np.int64), *np.zeros((2, 8, 1), np.float32), np.ones(8, np.float32), np.arange(8), 4
    )
    learner = evidence("sync_passes").Learner(stream, 1, has_counters=False)
    learner.learn(range(4))
    learner.model.eval()
    scores = {arm: rounding._scores(learner, stream, range(4, 8), encodings)[0] for arm, encodings in rounding.ARMS.items()}
    assert abs(scores["fp16"] - scores["fp32"]) < 1e-4 and scores["int4"] != scores["fp32"]
    assert len({scores["int4"], scores["fp16"], scores["int4, author and tab fp16"]}) == 3
