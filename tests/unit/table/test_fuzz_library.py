"""A short run of the library's fuzz; `make fuzz` runs it for minutes."""

from __future__ import annotations

import pytest

from tests.fuzz.fuzz_library import run


@pytest.mark.parametrize("seed", [11, 12])
def test_bags_agree_with_a_dictionary_of_rows_under_random_operations(seed: int) -> None:
    assert run(seed, seconds=600, most=400) == 400
