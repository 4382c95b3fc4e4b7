"""New dense weights of the core's ranker: their version, where they are packed, too little memory."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from core_setting import Setting, answer_of, model_of, small_job

from monolith_py.config import JobConfig
from monolith_py.data.schema import Schema
from monolith_serving.replica.dense_model import DenseModel


@pytest.fixture
def job() -> JobConfig:
    return small_job()


@pytest.fixture
def setting(job) -> Setting:
    return Setting(job, np.random.default_rng(1))


def test_new_weights_score_with_their_version(setting, job):
    message = setting.request(4)
    _, before = answer_of(setting.rank(message))
    model = model_of(job, 7)
    setting.replica.state = replace(setting.replica.state, model=model, dense=model.state, next_delta=(4, 3))
    answer, after = answer_of(setting.rank(message))
    assert answer.model_version == "4.3" and not np.allclose(before, after)
    np.testing.assert_allclose(after, setting.rank_in_python(message)[1].scores, atol=2e-6)


def test_requests_beside_the_packing_of_new_weights_have_the_version_of_the_last_delta(setting, job):
    message = setting.request(4)
    setting.rank(message)
    setting.replica.state = replace(setting.replica.state, next_delta=(4, 9))
    assert answer_of(setting.rank(message))[0].model_version == "4.9"
    model = model_of(job, 7)
    setting.replica.state = replace(setting.replica.state, model=model, dense=model.state, next_delta=(4, 10))
    with setting.core._packing:
        assert answer_of(setting.rank(message))[0].model_version == "4.9"
    assert answer_of(setting.rank(message))[0].model_version == "4.10"


class LargeModel(DenseModel):
    """A model that does not fit the memory in the core."""

    def fixed(self, split):
        raise MemoryError


def test_without_memory_for_new_weights_the_state_before_serves(setting, job):
    message = setting.request(4, request_id="r")
    before = setting.rank(message).response
    state, model = setting.replica.state, model_of(job, 7)
    large = LargeModel(Schema.of(job), job.model, model.state)
    setting.replica.state = replace(state, model=large, dense=model.state, next_delta=(4, 3))
    setting.core.keep_up()
    assert setting.rank(message).response == before
    with pytest.raises(MemoryError):
        setting.core.current()
    setting.replica.state = replace(state, model=model, dense=model.state, next_delta=(4, 4))
    assert answer_of(setting.rank(message))[0].model_version == "4.4"


def test_new_weights_are_packed_where_they_are_applied(setting, job):
    setting.rank(setting.request(1))
    after = setting.replica.state.model.after(model_of(job, 7).state)
    (split,) = after._fixed  # made by `after`, no request waits for it
    assert after.fixed(split) is after.fixed(split)
