"""A table without a free row raises TableFull. The core's own check is tested in tests/cpp: four billion rows do not fit here."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

import numpy as np
import pytest
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from monolith_py import _core
from monolith_py.errors import MonolithError, TableFull
from monolith_py.table import EmbeddingBags, EmbeddingTable, Feature, Sgd

WORDS = "table is full: rows must be at most 4294967294, got 4294967295"


def full(*_: object) -> NoReturn:
    raise _core.TableFull(WORDS)


class FullCore:
    """A core table in which every insertion fails."""

    find_or_insert: Callable[..., None] = staticmethod(full)


def test_an_insertion_into_a_full_table_names_the_table() -> None:
    table = EmbeddingTable(4, Sgd(), name="video_id")
    table.core = FullCore()  # type: ignore[assignment]
    with pytest.raises(TableFull, match=f"table 'video_id': {WORDS}") as refused:
        table.find_or_insert(np.arange(3), now_s=0)
    assert isinstance(refused.value, MonolithError)


def test_a_forward_that_finds_a_table_full_raises_table_full(monkeypatch: pytest.MonkeyPatch) -> None:
    bags = EmbeddingBags([Feature("user_id", dim=4)], optimizer=Sgd())
    kjt = KeyedJaggedTensor.from_lengths_sync(keys=["user_id"], values=torch.tensor([7]), lengths=torch.tensor([1]))
    monkeypatch.setattr(_core, "pooled_forward", full)
    with pytest.raises(TableFull, match=WORDS):
        bags(kjt)
