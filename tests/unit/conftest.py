"""What tests of the core share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from monolith_py import _core


@pytest.fixture(autouse=True)
def core_as_before() -> Iterator[None]:
    """Set the core's threads and instruction set back afterwards."""
    threads, level = _core.num_threads(), _core.simd_level()
    yield
    if (_core.num_threads(), _core.simd_level()) != (threads, level):
        _core.set_num_threads(threads)
        _core.set_simd_level(level)
