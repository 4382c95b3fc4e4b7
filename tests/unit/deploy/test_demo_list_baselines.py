"""Baselines of the list-wise demo: each label is learnt when it is known, not before."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from monolith_demo.dataset.listwise import ListStream, generate, oracle_auc
from monolith_demo.report.list_baselines import linear_list_learner, predict_then_learn, running_item_rate

WINDOW_MS = 60_000  # short, so that many clicks come after it


@pytest.fixture(scope="module")
def stream() -> ListStream:
    return generate(2, num_requests=1200, days=0.2)


def test_a_label_is_learnt_at_its_click_or_at_the_end_of_the_window_and_never_earlier(stream: ListStream) -> None:
    log: list[tuple[str, int, bool]] = []

    def predict(row: int) -> float:
        log.append(("predict", row, False))
        return row / 1e6

    predictions = predict_then_learn(stream, WINDOW_MS, predict, lambda row, label: log.append(("learn", row, label)))
    assert np.array_equal(predictions, np.arange(len(stream.items)) / 1e6)
    shown_ms = stream.times_ms[stream.requests]
    now_ms, learnt = 0, Counter[tuple[int, bool]]()
    for kind, row, label in log:
        if kind == "predict":
            now_ms = shown_ms[row]
        else:
            delay_ms = stream.click_delays_ms[row] if label else WINDOW_MS
            known_ms = shown_ms[row] + delay_ms
            # `now_ms` is the time of the request before; the label must be known before the next one.
            assert known_ms < stream.times_ms[min(np.searchsorted(stream.times_ms, now_ms, side="right"), len(stream) - 1)] or now_ms == 0
            learnt[row, label] += 1
    assert set(learnt.values()) == {1}
    late = [row for row in stream.clicked.tolist() if stream.click_delays_ms[row] > WINDOW_MS]
    end_ms = stream.times_ms[-1]
    known = {(row, True) for row in stream.clicked.tolist() if shown_ms[row] + stream.click_delays_ms[row] < end_ms}
    unclicked = [*np.flatnonzero(~stream.clicks).tolist(), *late]
    known |= {(row, False) for row in unclicked if shown_ms[row] + WINDOW_MS < end_ms}
    assert len(late) > 20 and set(learnt) == known


def test_the_item_rate_is_that_of_the_labels_known_before(stream: ListStream) -> None:
    rates = running_item_rate(stream, WINDOW_MS)
    shown_ms = stream.times_ms[stream.requests]
    negatives = np.flatnonzero(~stream.clicks | (stream.click_delays_ms > WINDOW_MS))
    for row in range(100, len(rates), 997):
        now_ms = shown_ms[row]
        clicked = stream.items[stream.clicked[shown_ms[stream.clicked] + stream.click_delays_ms[stream.clicked] < now_ms]]
        unclicked = stream.items[negatives[shown_ms[negatives] + WINDOW_MS < now_ms]]
        prior = (len(clicked) + 1) / (len(clicked) + len(unclicked) + 2)
        positives, negative = (int((of == stream.items[row]).sum()) for of in (clicked, unclicked))
        assert rates[row] == pytest.approx((positives + 20 * prior) / (positives + negative + 20))


def test_the_linear_learner_learns_and_stays_below_the_oracle(stream: ListStream) -> None:
    predictions = linear_list_learner(stream, WINDOW_MS)
    assert ((predictions > 0) & (predictions < 1)).all()
    late = stream.requests >= 600
    learnt = oracle_auc(predictions[late], stream.clicks[late])
    assert 0.55 < learnt < oracle_auc(stream.click_probability[late], stream.clicks[late]) - 0.02
