"""Baselines: each prediction depends on earlier impressions only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monolith_demo.dataset.kuairand import Stream
from monolith_demo.report.baselines import linear_learner, running_video_rate
from monolith_py.data.columns import FeatureColumns, SparseColumn
from monolith_py.training import auc

VIEWS = st.lists(st.tuples(st.integers(1, 4), st.booleans()), min_size=1, max_size=30)


def rates(views: list[tuple[int, bool]]) -> list[float]:
    videos, labels = zip(*views, strict=True)
    return running_video_rate(np.array(videos), np.array(labels)).tolist()


@given(VIEWS)
def test_the_running_rate_is_that_of_the_video_before_smoothed_by_that_of_all(views: list[tuple[int, bool]]) -> None:
    expected = []
    for index, (video, _) in enumerate(views):
        before = views[:index]
        prior = (sum(label for _, label in before) + 1) / (len(before) + 2)
        of_video = [label for other, label in before if other == video]
        expected.append((sum(of_video) + 20 * prior) / (len(of_video) + 20))
    assert rates(views) == pytest.approx(expected)


@given(VIEWS, VIEWS, st.booleans())
def test_the_running_rate_knows_nothing_of_its_own_label_or_later_ones(
    views: list[tuple[int, bool]], later: list[tuple[int, bool]], label: bool
) -> None:
    changed = [*views[:-1], (views[-1][0], label), *later]
    assert rates(changed)[: len(views)] == rates(views)


@pytest.fixture(scope="module")
def predict(make_stream: Callable[..., Stream]) -> Callable[..., np.ndarray]:
    """Return a function that runs the linear learner over the head of a stream with the given labels."""
    stream = make_stream(1500, seed=2)
    one = np.ones(1, np.int32)
    users = {user: FeatureColumns(1, {"degree": SparseColumn(np.array([user % 3]), one)}) for user in set(stream.users.tolist())}
    names = ("author_id", "duration", "tag", "music_type")
    videos = {
        video: FeatureColumns(1, {name: SparseColumn(np.array([video % (place + 2)]), one) for place, name in enumerate(names)})
        for video in set(stream.videos.tolist())
    }

    def run(labels: np.ndarray, note: Callable[[int], None] = lambda _: None) -> np.ndarray:
        head = stream.head(len(labels))
        return linear_learner(head, labels, users, videos, note)

    run.videos = stream.videos  # type: ignore[attr-defined]
    return run


def test_the_linear_learner_knows_nothing_of_its_own_label_or_later_ones(predict: Any) -> None:
    labels = predict.videos[:200] % 2 == 0
    changed = labels.copy()
    changed[100:] = ~changed[100:]
    one, two = predict(labels), predict(changed)
    assert np.array_equal(one[:101], two[:101])
    assert not np.array_equal(one[101:], two[101:])


def test_the_linear_learner_learns_and_predicts_probabilities(predict: Any) -> None:
    labels, noted = predict.videos % 2 == 0, []
    predictions = predict(labels, noted.append)
    assert ((predictions > 0) & (predictions < 1)).all()
    assert predictions[0] == pytest.approx(0.5)
    assert auc(labels[1000:], predictions[1000:]) > 0.99
    assert noted == [0, 1000, 1500]
