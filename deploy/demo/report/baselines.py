"""Baselines: a running rate of each video, and an online linear learner (Vowpal Wabbit). Letters: n impressions.

Both learn each label right after its prediction, without the delay of the joiner: a small advantage over the live replica.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from monolith_demo.dataset.kuairand import Stream
from monolith_py.data.columns import FeatureColumns

FloatArray = npt.NDArray[np.float64]

# Pseudo-impressions at the mean rate, which smooth the rate of a rare video.
_PRIOR_WEIGHT = 20.0
# Best of the settings tried on this stream: users and videos crossed with tabs, durations and tags.
_VOWPAL = "--loss_function logistic --link logistic -b 22 --quiet -q ut -q vt -q ud -q ug -q td -q tg --random_seed 1"


def running_video_rate(videos: npt.NDArray[np.int64], labels: npt.NDArray[np.bool_]) -> FloatArray:
    """Return the smoothed positive rate of each impression's video before that impression: float64 (n,)."""
    counts: dict[int, tuple[int, int]] = {}
    predictions = np.empty(len(videos))
    total, positives = 0, 0
    for index, (video, label) in enumerate(zip(videos.tolist(), labels.tolist(), strict=True)):
        prior = (positives + 1) / (total + 2)
        seen, liked = counts.get(video, (0, 0))
        predictions[index] = (liked + _PRIOR_WEIGHT * prior) / (seen + _PRIOR_WEIGHT)
        counts[video] = (seen + 1, liked + label)
        total, positives = total + 1, positives + label
    return predictions


def linear_learner(
    stream: Stream,
    labels: npt.NDArray[np.bool_],
    users: Mapping[int, FeatureColumns],
    videos: Mapping[int, FeatureColumns],
    note: Callable[[int], None] = lambda _: None,
) -> FloatArray:
    """Return Vowpal Wabbit's prediction of each label before it learns that label: float64 (n,). `note` gets the number done."""
    from vowpalwabbit import Workspace

    user_text = {user: _text(columns, "p") for user, columns in users.items()}
    video_text = {video: _video_text(columns) for video, columns in videos.items()}
    learner = Workspace(_VOWPAL)
    predictions = np.empty(len(stream))
    for index in range(len(stream)):
        user, video = int(stream.users[index]), int(stream.videos[index])
        line = f"{1 if labels[index] else -1} |u {user} |v {video} |t {stream.tabs[index]} {user_text[user]} {video_text[video]}"
        example = learner.example(line)
        learner.learn(example)  # also stores the prediction made before the update
        predictions[index] = example.get_simplelabel_prediction()
        learner.finish_example(example)
        if index % 1000 == 0:
            note(index)
    learner.finish()
    note(len(stream))
    return predictions


def _text(columns: FeatureColumns, namespace: str) -> str:
    return f"|{namespace} " + " ".join(f"{name}_{fid}" for name, column in columns.sparse.items() for fid in column.fids.tolist())


def _video_text(columns: FeatureColumns) -> str:
    of = {name: FeatureColumns(1, {name: column}) for name, column in columns.sparse.items()}
    rest = FeatureColumns(1, {name: column for name, column in columns.sparse.items() if name not in ("duration", "tag", "author_id")})
    return " ".join([_text(of["author_id"], "a"), _text(of["duration"], "d"), _text(of["tag"], "g"), _text(rest, "m")])
