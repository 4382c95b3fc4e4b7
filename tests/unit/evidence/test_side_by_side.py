"""Passes in workers repeat: all have the same choice of buckets, which decides evictions by a memory budget."""

from __future__ import annotations

import os
from collections.abc import Callable
from types import ModuleType

import pytest


@pytest.mark.parametrize("given", [None, "7"])
def test_workers_have_one_seed_of_the_buckets(
    evidence: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, given: str | None
) -> None:
    monkeypatch.setenv("MONOLITH_HASH_SEED", given or "unset")
    if given is None:
        monkeypatch.delenv("MONOLITH_HASH_SEED")
    ended = evidence("side_by_side").side_by_side([("MONOLITH_HASH_SEED",)], os.getenv, 1, id, None)
    assert [seed for _, seed in ended] == [given or "0"]
