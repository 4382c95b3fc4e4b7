"""Which ids share rows under each variant."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

IDS = np.arange(1000)[np.random.default_rng(1).integers(0, 1000, 5000)]


@pytest.fixture(scope="module")
def fold(evidence: Callable[[str], ModuleType]) -> Callable[..., Any]:
    variants = evidence("variants")

    def make(kind: str, buckets: int = 0, seed: int = 0) -> Any:
        return variants.folded(IDS, variants.Variant("group", "label", kind, buckets), seed)

    return make


def num_pairs(parts: list[np.ndarray]) -> int:
    return len(np.unique(np.stack(parts), axis=1).T)


def test_exact_ids_stay_as_they_are(fold: Callable[..., Any]) -> None:
    (ids,) = fold("exact")
    np.testing.assert_array_equal(ids, IDS)


def test_a_hash_is_a_function_of_the_id_that_fills_its_buckets(fold: Callable[..., Any]) -> None:
    (buckets,) = fold("hash", 64)
    assert set(np.unique(buckets)) == set(range(64))
    assert num_pairs([IDS, buckets]) == len(np.unique(IDS))


def test_another_seed_makes_other_ids_meet(fold: Callable[..., Any]) -> None:
    assert num_pairs([*fold("hash", 64, seed=0), *fold("hash", 64, seed=1)]) > 64 * 8


@pytest.mark.parametrize("kind", ["qr_sum", "qr_product"])
def test_remainder_and_quotient_have_half_of_the_rows_each_and_tell_most_ids_apart(fold: Callable[..., Any], kind: str) -> None:
    remainders, quotients = fold(kind, 2048)
    assert remainders.max() < 1024
    assert quotients.max() < 1024
    assert num_pairs([remainders, quotients]) >= len(np.unique(IDS)) - 5


def test_numbered_ids_have_each_a_pair_of_their_own_and_few_quotients(fold: Callable[..., Any]) -> None:
    remainders, quotients = fold("qr_dense", 256)
    num_ids = len(np.unique(IDS))
    assert num_pairs([remainders, quotients]) == num_ids
    assert (remainders.max(), quotients.max()) == (255, (num_ids - 1) // 256)


def test_no_two_variants_have_one_name(evidence: Callable[[str], ModuleType]) -> None:
    variants = evidence("variants")
    different = [*variants.COLLISIONS, *variants.FORGETTING[1:], *variants.COUNTERS, *variants.CRITEO]
    assert len({variant.name for variant in different}) == len(different)
