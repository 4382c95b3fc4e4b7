"""Monolith's Table 1 (Liu et al. 2022): the ids that its hashing loses, and our table loses none of."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest

from monolith_py.table import NO_ROW, EmbeddingTable, Sgd

TABLE_1 = pytest.mark.parametrize(("num_ids", "told_apart"), [(162_541, 149_970), (59_047, 57_361)], ids=["users", "movies"])


@TABLE_1
def test_md5_modulo_a_million_gives_the_counts_of_the_paper(evidence: Callable[[str], ModuleType], num_ids: int, told_apart: int) -> None:
    bucket = evidence("variants").md5_bucket
    assert len({bucket(number) for number in range(num_ids)}) == told_apart


@TABLE_1
def test_the_table_has_a_row_of_its_own_for_each_of_the_same_ids(num_ids: int, told_apart: int) -> None:
    table = EmbeddingTable(dim=4, optimizer=Sgd())
    rows = table.find_or_insert(np.arange(num_ids), now_s=0)
    assert len(table) == len(np.unique(rows)) == num_ids > told_apart
    assert NO_ROW not in rows
