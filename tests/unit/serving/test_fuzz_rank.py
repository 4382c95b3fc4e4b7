"""A short run of the fuzzer of Rank requests; `make fuzz` runs it for longer."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from monolith_serving.ranking.batcher import Batcher

FUZZER = Path(__file__).parents[2] / "fuzz" / "fuzz_rank.py"


@pytest.fixture(scope="module")
def fuzzer():
    spec = importlib.util.spec_from_file_location("fuzz_rank", FUZZER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("engine", ["core", "python"])
def test_mutated_requests_hurt_no_neighbour(fuzzer, work_factor, engine):
    codes = fuzzer.main(seconds=60.0, max_requests=100 * work_factor, engine=engine)
    assert codes["INVALID_ARGUMENT"] > 100 and codes["OK"] > 10


def test_the_fuzzer_finds_a_batch_that_fails_as_one(fuzzer, monkeypatch):
    def settle(self, group):
        outcomes = self._score([one.request for one in group])
        error = KeyError("as one") if len(group) > 1 and any(one.size == 50 for one in group) else None
        for one, outcome in zip(group, outcomes, strict=True):
            one.result, one.error = outcome if error is None else None, error

    monkeypatch.setattr(Batcher, "_settle", settle)
    with pytest.raises(AssertionError):
        fuzzer.main(seconds=60.0, max_requests=200, engine="python")
