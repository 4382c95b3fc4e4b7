"""Scores, answers and impressions of the core are those of the Python path, for any job and request."""

from __future__ import annotations

import numpy as np
import pytest
from core_setting import (
    FAR_S,
    TIME_MS,
    Setting,
    answer_of,
    random_job,
    small_job,
)

from monolith_py.clock import SystemClock
from monolith_py.config import JobConfig
from monolith_py.data.schema import Schema
from monolith_py.errors import Overloaded
from monolith_py.pb import ranking_pb2 as pb
from monolith_serving.features import returned
from monolith_serving.ranking.answer import best, cut
from monolith_serving.ranking.impression_encoder import ImpressionEncoder, ServedRequest
from monolith_serving.ranking.ranker import Ranking
from monolith_serving.service import _response


@pytest.mark.parametrize("seed", range(24))
def test_scores_answers_and_impressions_are_those_of_the_python_path(seed):
    generator = np.random.default_rng(seed)
    setting = Setting(random_job(generator), generator)
    encode = ImpressionEncoder(setting.job)
    # Products of bf16 are summed in another order, and sums rounded to bf16 differ in their last bit: 2^-8.
    atol = 4e-3 if setting.replica.state.model.shape.bf16 else 2e-6
    spread = 0.0
    for num_candidates in (1, 2, 7, 130):
        message = setting.request(num_candidates, request_id=f"r{num_candidates}", time_ms=TIME_MS)
        request, expected = setting.rank_in_python(message)
        ranked = setting.rank(message)
        answer, scores = answer_of(ranked)
        np.testing.assert_allclose(scores, expected.scores, atol=atol, rtol=5 * atol)
        assert answer.SerializeToString() == ranked.response
        assert (answer.request_id, tuple(answer.task_names)) == (f"r{num_candidates}", Schema.of(setting.job).tasks)
        assert (answer.model_version, answer.staleness_ms, answer.event_staleness_ms) == ("4.2", 17, 23)
        assert encode([ranked]) == encode([ServedRequest(request, expected.features, scores, "4.2")])
        spread = max(spread, float(np.ptp(scores)))
    assert spread > 1e-3


@pytest.fixture
def job() -> JobConfig:
    return small_job()


@pytest.fixture
def setting(job) -> Setting:
    return Setting(job, np.random.default_rng(1))


def test_a_request_without_an_id_gets_one_of_its_own(setting):
    ids = {setting.rank(setting.request(1)).request_id for _ in range(50)}
    assert len(ids) == 50 and all(len(one) == 32 for one in ids)


def random_choice(setting: Setting) -> dict[str, object]:
    generator, tasks = setting.generator, Schema.of(setting.job).tasks
    names = generator.permutation(tasks)[: generator.integers(0, len(tasks) + 1)].tolist()
    choice: dict[str, object] = {"task_names": names, "top_k": int(generator.integers(0, 12))}
    if choice["top_k"] and generator.random() < 0.5:
        choice["rank_by"] = str(generator.choice(tasks))
    if generator.random() < 0.5:
        choice |= {"model_version": str(generator.choice(["4", "4.2"])), "max_staleness_ms": int(generator.integers(17, 99))}
    return choice


@pytest.mark.parametrize("seed", range(8))
def test_an_answer_has_the_candidates_and_tasks_that_the_request_asks_for(seed):
    generator = np.random.default_rng(100 + seed)
    setting = Setting(random_job(generator), generator)
    tasks, encode = Schema.of(setting.job).tasks, ImpressionEncoder(setting.job)
    for num_candidates in (1, 5, 40, 200):
        message = setting.request(num_candidates, request_id="r", time_ms=TIME_MS)
        _, scores = answer_of(setting.rank(message))  # of all candidates and tasks
        message.MergeFrom(pb.RankRequest(**random_choice(setting)))
        request, python = setting.rank_in_python(message)
        ranking = Ranking(scores, "4.2", python.features)
        positions = None
        if request.choice.top_k:
            positions = best(scores[:, request.choice.rank_by], request.choice.top_k)
            request, ranking = cut(request, ranking, positions)
        ranked = setting.rank(message)
        assert pb.RankResponse.FromString(ranked.response) == _response(request, ranking, tasks, positions, (17, 23))
        assert encode([ranked]) == encode([ServedRequest(request, ranking.features, ranking.scores, "4.2")])
        assert (ranked.num_scored, ranked.num_candidates) == (num_candidates, len(ranking.scores))


def random_wishes(setting: Setting) -> dict[str, object]:
    """Return an explanation, returned features, or both, of an answer of any form."""
    generator, schema = setting.generator, Schema.of(setting.job)
    wishes = random_choice(setting) | {"explain": bool(generator.random() < 0.6)}
    names = generator.permutation([*schema.sparse_names, *schema.dense_names])
    return wishes | {"return_features": names[: generator.integers(0 if wishes["explain"] else 1, len(names) + 1)].tolist()}


@pytest.mark.parametrize("seed", range(16))
def test_explanations_and_returned_features_are_those_of_the_python_path(seed):
    generator = np.random.default_rng(200 + seed)
    setting = Setting(random_job(generator), generator)
    atol = 8e-3 if setting.replica.state.model.shape.bf16 else 4e-6  # of differences
    for num_candidates in (1, 5, 140):
        message = setting.request(num_candidates, request_id="r", time_ms=TIME_MS)
        message.MergeFrom(pb.RankRequest(**random_wishes(setting)))
        ranked, expected = setting.rank(message), setting.rank_by_service(message)
        answer = pb.RankResponse.FromString(ranked.response)
        assert answer.SerializeToString() == ranked.response and ranked.logs_impression == (not message.explain)
        if not message.top_k:  # equal but for rounding; with `top_k` nearly equal scores may change places
            np.testing.assert_allclose(answer.scores, expected.scores, atol=atol)
            np.testing.assert_allclose(answer.contributions, expected.contributions, atol=atol)
        if answer.candidates == expected.candidates:
            del expected.scores[:], expected.contributions[:]
            expected.scores.extend(answer.scores)
            expected.contributions.extend(answer.contributions)
            assert ranked.response == expected.SerializeToString()


def test_an_explained_feature_without_values_adds_nothing(setting):
    message = pb.RankRequest(user_id=1, item_ids=[1, 2], explain=True, log_impression=True)  # without the feature "tab"
    ranked = setting.rank(message)
    answer, scores = answer_of(ranked)
    contributions = np.array(answer.contributions).reshape(2, len(answer.feature_names))
    place = list(answer.feature_names).index("tab")
    assert (contributions[:, place] == 0).all() and (contributions != 0).any() and ranked.logs_impression
    np.testing.assert_allclose(scores, answer_of(setting.rank(pb.RankRequest(user_id=1, item_ids=[1, 2])))[1], atol=1e-7)


def test_an_explanation_is_left_to_a_thread_of_its_own(setting):
    value = pb.RankRequest(user_id=1, item_ids=[1, 2], explain=True).SerializeToString()
    assert setting.core.rank(value, FAR_S) is not None
    assert setting.core.rank_at_once(value, FAR_S) is None


def test_returned_features_of_too_many_values_are_left_to_the_python_path(job, monkeypatch):
    monkeypatch.setattr(returned, "MAX_RETURNED_VALUES", 2)
    setting = Setting(job, np.random.default_rng(1))
    assert setting.rank(pb.RankRequest(user_id=1, item_ids=[1, 2], return_features=["item"])) is not None
    assert setting.rank(pb.RankRequest(user_id=1, item_ids=[1, 2, 3], return_features=["item"])) is None


def test_an_explanation_ends_at_the_deadline(setting):
    message = pb.RankRequest(user_id=1, item_ids=[1] * 2000, explain=True)
    setting.rank(pb.RankRequest(user_id=1, item_ids=[1]))
    with pytest.raises((TimeoutError, Overloaded)):
        setting.rank(message, SystemClock().monotonic_s() + 1e-4)


def test_equal_scores_keep_the_order_of_the_request(setting):
    message = pb.RankRequest(user_id=1, item_ids=[3, 4, 3, 4, 3], top_k=4)
    _, scores = answer_of(setting.rank(pb.RankRequest(user_id=1, item_ids=[3, 4])))
    positions = list(pb.RankResponse.FromString(setting.rank(message).response).candidates)
    assert positions == ([0, 2, 4, 1] if scores[0] > scores[1] else [1, 3, 0, 2])


@pytest.mark.parametrize(
    "fields",
    [
        {"request_id": "caf\u00e9"},
        {"request_id": "x" * 129},
        {"time_ms": 5},
        {"time_ms": 1 << 62},
        {"time_ms": TIME_MS - 90_000_000},
        {"item_ids": []},
        {"item_ids": list(range(2001))},
        {"explain": True, "item_ids": list(range(2001))},
        {"return_features": ["age"]},
        {"return_features": ["tags", "tags"]},
        {"task_names": ["buy"]},
        {"task_names": ["click", "click"]},
        {"rank_by": "click"},
        {"rank_by": "buy", "top_k": 1},
        {"model_version": "4.1"},
        {"model_version": "4.2 "},
        {"max_staleness_ms": 16},
        {"max_staleness_ms": -1},
        {"candidate_features": {"dense": [{"name": "price", "values": [1.0]}]}},
    ],
)
def test_odd_requests_are_left_to_the_python_path(setting, fields):
    message = setting.request(1)
    for name in fields:
        message.ClearField(name)
    message.MergeFrom(pb.RankRequest(**fields))
    assert setting.rank(message) is None


def test_garbage_is_left_to_the_python_path(setting):
    assert setting.core.rank(b"\xff\xff", FAR_S) is None
    assert setting.core.rank(setting.request(2).SerializeToString() + b"\xf8\x07\x01", FAR_S) is None
