"""The live arm scores as a plain loop of predict and learn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from monolith_py.data.columns import FeatureColumns, SparseColumn
from monolith_py.data.examples import ExampleBatch
from monolith_py.model.batch import make_batch
from monolith_py.training import Trainer
from monolith_streaming.backtest import FROZEN, HOURLY, LIVE, BacktestOptions, Timeline, run_backtest


def columns(rows: list[tuple[int, int]]) -> FeatureColumns:
    """Return the features of (user, item) rows."""
    ones = np.ones(len(rows), np.int32)
    users, items = (np.array(values, np.int64) for values in zip(*rows, strict=True))
    return FeatureColumns(len(rows), {"user": SparseColumn(users, ones), "item": SparseColumn(items, ones)})


def examples(rows: list[tuple[int, int]], labels: list[int], time_ms: list[int]) -> ExampleBatch:
    num = len(rows)
    return ExampleBatch(
        tuple("x" for _ in rows),
        np.array([item for _, item in rows], np.int64),
        np.array(time_ms, np.int64),
        np.zeros(num, np.uint8),
        np.ones(num, np.float32),
        {"is_click": np.array(labels, np.float32)},
        columns(rows),
    )


def predict(trainer: Trainer, rows: list[tuple[int, int]]) -> list[float]:
    batch = make_batch(columns(rows), trainer.schema)
    trainer.model.eval()
    trainer.bags.eval()
    with torch.no_grad():
        scores = torch.sigmoid(trainer.model(trainer.bags(batch.sparse()).values(), torch.from_numpy(batch.dense)))
    trainer.bags.train()
    trainer.model.train()
    return scores[:, 0].tolist()


def test_scores_are_those_of_a_plain_loop(stream: Any, filled_log: Callable[..., Any]) -> None:
    job, t0 = stream.job(), stream.start_ms
    log = filled_log(
        job,
        [
            stream.impression("a", 0, 1, [1, 2]),
            stream.click("a", 5, 2),
            stream.impression("b", 200, 2, [1, 3]),  # history ends
            stream.click("b", 201.5, 3),  # known at 201.5
            stream.impression("c", 201.2, 1, [3, 2]),  # scored before the click in the same second is learnt
            stream.impression("d", 202, 2, [3, 1]),  # scored after it
            stream.impression("e", 301, 3, [1, 2, 3]),  # b's negative is known at 300, c's two at 301.2
            stream.impression("f", 303, 3, [1, 2, 3]),
        ],
    )
    options = BacktestOptions(start_ms=t0 + 200_000, arms=(LIVE, HOURLY, FROZEN))
    result = run_backtest(job, Timeline(job, log, options), options)

    trainer, expected = Trainer(job), []
    trainer.step(examples([(1, 2), (1, 1)], [1, 0], [t0, t0]))
    frozen = predict(trainer, [(2, 1), (2, 3)])
    expected += predict(trainer, [(2, 1), (2, 3)])  # b
    expected += predict(trainer, [(1, 3), (1, 2)])  # c
    trainer.step(examples([(2, 3)], [1], [t0 + 200_000]))
    expected += predict(trainer, [(2, 3), (2, 1)])  # d
    trainer.step(examples([(2, 1)], [0], [t0 + 200_000]))
    expected += predict(trainer, [(3, 1), (3, 2), (3, 3)])  # e
    trainer.step(examples([(1, 3), (1, 2)], [0, 0], [t0 + 201_200] * 2))
    trainer.step(examples([(2, 3), (2, 1)], [0, 0], [t0 + 202_000] * 2))
    expected += predict(trainer, [(3, 1), (3, 2), (3, 3)])  # f

    assert result.request_ids == tuple("bbccddeeefff")
    assert result.scores["live"][:, 0].tolist() == expected
    assert result.scores["hourly"].tolist() == result.scores["frozen"].tolist()
    assert result.scores["frozen"][:2, 0].tolist() == frozen
    assert result.labels["is_click"].tolist() == [0, 1] + [0] * 10
    assert (result.num_history, result.num_examples) == (2, 14)
