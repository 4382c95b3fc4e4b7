"""The evidence on synchronization: a replica has what its interval says, a loss is not learnt, and the page has every row."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

Evidence = Callable[[str], ModuleType]
NUM, FIRST = 240, 160


@pytest.fixture(scope="module")
def stream(evidence: Evidence) -> Any:
    """A stream of one impression every 30 s, from users who differ."""
    generator = np.random.default_rng(3)
    users = generator.integers(1, 9, NUM)
    counters = generator.normal(size=(2, NUM, 3)).astype(np.float32)
    fids = np.stack([users, generator.integers(10, 20, NUM)])
    labels = (generator.random(NUM) < users / 9).astype(np.float32)
    return evidence("sync_stream").SyncStream(("user", "item"), fids, *counters, labels, np.arange(NUM) * 30 + 1_000_000, FIRST)


@pytest.mark.parametrize("interval", ["never", "10 min", "batch"])
def test_a_replica_has_the_rows_and_the_parameters_of_its_last_sync(evidence: Evidence, stream: Any, interval: str) -> None:
    passes, policies = evidence("sync_passes"), evidence("sync_policies")
    policy = policies.Policy(interval, interval)
    learner, replicas = passes._started(stream, 1, [policy], has_counters=False)
    table = learner.bags.tables["user"]
    kept: dict[str, Any] = {}
    last = -1.0
    for rows in passes.batches(FIRST, NUM, 16):
        now_s = float(stream.times_s[rows.start])
        period = (now_s - float(stream.times_s[FIRST])) // max(policies.INTERVALS_S[interval], 1)
        if period > last:
            fids, weights = table.export_rows()
            kept = {"fids": fids, "rows": weights.copy(), "dense": [one.detach().clone() for one in learner.model.parameters()]}
            last = period
        replicas.sync(now_s)
        places = np.searchsorted(np.unique(stream.fids[0]), kept["fids"])
        np.testing.assert_array_equal(replicas._rows[interval]._rows[0][places], kept["rows"].astype(np.float16))
        for one, other in zip(replicas._models[interval].parameters(), kept["dense"], strict=True):
            assert torch.equal(one, other)
        replicas.score(rows)
        learner.learn(rows)
    assert np.isfinite(replicas.scores[policy.name]).all()


def test_a_loss_changes_only_what_comes_after_it(evidence: Evidence, stream: Any) -> None:
    passes = evidence("sync_passes")
    whole, without = passes._live_scores(stream, 1, (200, 200)), passes._live_scores(stream, 1, (184, 200))
    assert np.array_equal(whole[: 184 - FIRST], without[: 184 - FIRST])
    assert not np.allclose(whole[200 - FIRST :], without[200 - FIRST :], atol=1e-5)


def test_frozen_counters_are_those_of_the_end_of_the_history(evidence: Evidence) -> None:
    module, streams = evidence("sync_stream"), evidence("streams")
    keys, outcome = np.array([1, 2, 1, 1, 2]), np.array([True, False, True, True, True])
    expected = streams.live_counter_values(np.array([[2, 2], [1, 0], [2, 2], [2, 2], [1, 0]]))
    np.testing.assert_array_equal(module.frozen_counters(keys, [outcome], 3), expected)


def test_the_page_has_a_row_for_each_interval_and_names_what_is_not_significant(evidence: Evidence, stream: Any, tmp_path: Path) -> None:
    passes, policies, report = evidence("sync_passes"), evidence("sync_policies"), evidence("sync_report")
    generator = np.random.default_rng(1)

    def figures() -> Any:
        return passes.Figures(*generator.random(2))

    ids = [passes.SyncOutcome(seed, {policy.name: figures() for policy in policies.IDS}) for seed in range(3)]
    counters = [passes.SyncOutcome(seed, {policy.name: figures() for policy in policies.COUNTERS}) for seed in range(3)]
    lost = {(name, part): figures() for name in policies.LOST_S for part in policies.AFTER_S}
    losses = [passes.LossOutcome(seed, lost, {part: figures() for part in policies.AFTER_S}) for seed in range(3)]
    report.write_report(tmp_path, report.Results(ids, counters, losses), stream, "today.")
    text = (tmp_path / "SYNC.md").read_text()
    first = text.split("## 1.")[1].split("## 2.")[0]
    labels = [row.split(" | ")[0] for row in re.findall(r"^\| (?!---)(.+) \|$", first, re.MULTILINE)[1:]]
    assert labels == ["never", "24 h", "5 h", "1 h", "10 min", "1 min", "every batch"]
    assert "1 min, less 10 min" in text.split("## 6.")[1]
    assert "nan" not in text
