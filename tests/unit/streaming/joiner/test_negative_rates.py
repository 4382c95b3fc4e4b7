"""Rates of negatives by the value of a feature: which one counts, what the examples carry, and what a trainer learns from them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import torch

from monolith_py.data.columns import FeatureColumns, SparseColumn
from monolith_py.data.examples import ExampleBatch, ExampleKind
from monolith_py.data.ids import fid_from_text
from monolith_py.training import TaskLoss
from monolith_streaming.joiner.sampling import is_kept

World = Any


def rate(feature: str, value: int | str, share: float) -> dict[str, Any]:
    return {"feature": feature, "value": value, "rate": share}


def user(fid: int) -> FeatureColumns:
    return FeatureColumns(1, {"user": SparseColumn(np.array([fid]), np.ones(1, np.int32))})


def tags(bags: list[list[int]]) -> FeatureColumns:
    lengths = np.array([len(bag) for bag in bags], np.int32)
    return FeatureColumns(len(bags), {"tags": SparseColumn(np.array([fid for bag in bags for fid in bag], np.int64), lengths)})


def rates_by_item(world: World, job: Any, log: Any) -> dict[int, Counter[float]]:
    found: dict[int, Counter[float]] = {}
    for (_, item, _, _, share, *_), count in world.examples(job, log).items():
        found.setdefault(item, Counter())[share] += count
    return found


def test_the_first_rate_in_the_order_of_the_settings_counts(world: World) -> None:
    rates = [rate("tags", 7, 0.5), rate("user", 1, 0.25), rate("tags", 8, 1.0)]
    job = world.job(negative_rate=0.125, negative_rates=rates)
    log = world.log(job)
    bags = tags([[8, 7], [8], [9, 9, 9], []])
    for index in range(120):
        shown = {"shared": user(index % 2), "candidates": bags}
        world.append(job, log, world.impression(f"r{index}", items=(1, 2, 3, 4), **shown))
    world.join(job, log)
    found = rates_by_item(world, job, log)
    assert [set(found[item]) for item in (1, 2, 3, 4)] == [{0.5}, {0.25, 1.0}, {0.25, 0.125}, {0.25, 0.125}]
    expected = {(f"r{index}", item) for index in range(120) for item in (1,) if is_kept(f"r{index}", item, 0.5)}
    assert {(request_id, item) for request_id, item, *_ in world.examples(job, log) if item == 1} == expected
    assert found[2][1.0] == 60  # of user 0, all


def test_a_text_is_the_fid_that_it_hashes_to(world: World) -> None:
    job = world.job(negative_rate=1e-6, negative_rates=[rate("user", "home", 1.0), rate("user", -3, 0.5)])
    log = world.log(job)
    for index, fid in enumerate([fid_from_text("home"), -3, 3] * 30):
        world.append(job, log, world.impression(f"r{index}", items=(1 + index % 3,), shared=user(fid)))
    world.join(job, log)
    found = rates_by_item(world, job, log)
    assert found.keys() == {1, 2} and found[1] == {1.0: 30} and set(found[2]) == {0.5}


def test_a_late_positive_takes_back_the_weight_of_its_own_rate(world: World) -> None:
    job = world.job(negative_rate=0.5, negative_rates=[rate("user", 1, 0.25)])
    log = world.log(job)
    for index in range(60):
        shown = world.impression(f"r{index}", shared=user(index % 2))
        world.append(job, log, shown, world.action(f"r{index}", "click", 150))
    world.join(job, log)
    rows = list(world.examples(job, log))
    retracted = {(request_id, share) for request_id, _, kind, _, share, *_ in rows if kind == ExampleKind.RETRACTION}
    whole = {(request_id, share) for request_id, _, _, labels, share, *_ in rows if labels == (1, 0)} - retracted
    shares = [0.5, 0.25]
    kept = {(f"r{index}", shares[index % 2]) for index in range(60) if is_kept(f"r{index}", 1, shares[index % 2])}
    assert retracted == kept and {share for _, share in whole} == {1.0}
    assert len(retracted) + len(whole) == 60 and min(len(retracted), len(whole)) > 10


def gradient(batch: ExampleBatch, p: float) -> float:
    """Return the summed gradient of the loss of task is_click where the model predicts `p` everywhere."""
    loss = TaskLoss(("is_click", "is_like"), (1.0, 1.0))
    logits = torch.full((len(batch), 2), float(np.log(p / (1 - p))), requires_grad=True)
    loss(logits, loss.labels(batch), batch).backward()
    assert logits.grad is not None
    return float(logits.grad[:, 0].sum())


def test_true_rates_are_learnt_whatever_the_rates_of_negatives(world: World) -> None:
    """Half of the positives are late. At the true rate the gradient of each user is 0 within the noise of sampling."""
    job = world.job(negative_rates=[rate("user", 1, 0.1), rate("user", 2, 0.5)])
    log, num, true = world.log(job), 1500, {1: 0.1, 2: 0.3, 3: 0.2}
    for fid, share in true.items():
        for index in range(num):
            request_id = f"u{fid}-{index}"
            world.append(job, log, world.impression(request_id, shared=user(fid)))
            if index < share * num:
                world.append(job, log, world.action(request_id, "click", 150 if index % 2 else 5))
    world.join(job, log)
    batch = ExampleBatch.concat(world.batches(job, log))
    owners = np.array([int(request_id[1]) for request_id in batch.request_ids])
    for (fid, share), kept in zip(true.items(), (0.1, 0.5, 1.0), strict=True):
        rows = [batch.slice(row, row + 1) for row in np.flatnonzero(owners == fid)]
        # Variance of the sum of p / kept over the kept negatives, of which there are num * (1 - share / 2) to draw from.
        deviation = share * (num * (1 - share / 2) * (1 - kept) / kept) ** 0.5
        assert abs(gradient(ExampleBatch.concat(rows), share)) <= 3 * deviation + 1e-2, fid
