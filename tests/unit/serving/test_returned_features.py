"""Features that a request asks for come back as they were read and scored, by the client over a genuine gRPC server."""

from __future__ import annotations

import re

import numpy as np
import pytest

from monolith_py.config import JobConfig
from monolith_py.data.columns import FeatureColumns
from monolith_py.errors import KvError
from monolith_py.io import MemoryKv
from monolith_serving.features import returned
from tests.unit.serving.test_rank_api import FEATURES, ITEMS, Door, door, job, refusal  # noqa: F401  (two are fixtures)

SHARED, OWN = {"user_id", "tab", "hour"}, {"item_id", "tags", "position", "price", "counter_position"}


def test_an_answer_has_the_features_asked_for_as_the_impression_has_them(door: Door) -> None:  # noqa: F811
    result = door.rank(return_features=[*FEATURES], request_id="all")
    impression = door.impression("all")
    assert not result.features_unread
    for got, logged, names in (
        (result.shared_features, impression.shared, SHARED),
        (result.candidate_features, impression.candidates, OWN),
    ):
        assert got.num_rows == logged.num_rows and {*got.sparse, *got.dense} == {*logged.sparse, *logged.dense} == names
        for name, column in logged.sparse.items():
            np.testing.assert_array_equal(got.sparse[name].fids, column.fids)
            np.testing.assert_array_equal(got.sparse[name].lengths, column.lengths)
        for name, values in logged.dense.items():
            np.testing.assert_array_equal(got.dense[name], values)
    np.testing.assert_allclose(result.scores, door.rank().scores, rtol=1e-5)


def test_features_of_candidates_come_in_the_order_of_the_scores(door: Door) -> None:  # noqa: F811
    result = door.rank(return_features=["price", "tags"], top_k=3, rank_by="like")
    own = result.candidate_features
    assert own.num_rows == 3 and {*own.sparse} == {"tags"} and {*own.dense} == {"price"}
    assert own.sparse["tags"].lengths.tolist() == [[3, 3, 3, 3, 0][place] for place in result.candidates]
    assert own.dense["price"].ravel().tolist() == [[0.5, 1.5, -0.5, 2.0, 0.0][place] for place in result.candidates]
    assert result.shared_features == FeatureColumns(1)


def test_without_names_no_features_come(door: Door) -> None:  # noqa: F811
    result = door.rank()
    assert result.shared_features is None and result.candidate_features is None


@pytest.mark.parametrize("names", [["age"], ["tags", "tags"], ["tags", "secret"], [""]])
def test_a_name_that_is_of_no_feature_is_refused(door: Door, names: list[str]) -> None:  # noqa: F811
    code, details = refusal(door, return_features=names)
    assert code == "INVALID_ARGUMENT" and re.match(r"return_features must be unique features among \[.*'price'.*\], got \[", details)


@pytest.mark.parametrize("path", ["core", "python"])
def test_an_answer_that_would_be_too_large_is_refused(job: JobConfig, path: str, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr(returned, "MAX_RETURNED_VALUES", 12)
    own_door = Door(job, path)
    assert own_door.rank(return_features=["tags"]).candidate_features.num_rows == len(ITEMS)
    code, details = refusal(own_door, return_features=["tags", "user_id"])
    rule = "return_features must name features of at most 12 values, got 13: set top_k or fewer names"
    assert (code, details) == ("INVALID_ARGUMENT", rule)
    own_door.close()


def test_an_answer_says_that_stored_features_could_not_be_read(job: JobConfig, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    def fail(*_: object) -> None:
        raise KvError("away")

    other = Door(job, "core")
    monkeypatch.setattr(MemoryKv, "get_many", fail)
    result = other.rank(return_features=["tags", "price"])
    assert result.features_unread and result.candidate_features.sparse["tags"].lengths.tolist() == [0] * 5
    assert result.candidate_features.dense["price"].ravel().tolist() == [0.5, 1.5, -0.5, 2.0, 0.0]
    assert not other.rank().features_unread, "it comes with return_features alone"
    other.close()
