"""One call sets the threads of torch and of the core."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

import monolith_py
from monolith_py import _core


@pytest.fixture(autouse=True)
def torch_as_before() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_torch_and_the_core_take_the_number() -> None:
    monolith_py.set_num_threads(3)
    assert (torch.get_num_threads(), _core.num_threads()) == (3, 3)
    monolith_py.set_num_threads(0)
    assert torch.get_num_threads() == _core.num_threads() == os.cpu_count()
    with pytest.raises(ValueError, match="num_threads must be >= 0, got -1"):
        monolith_py.set_num_threads(-1)


def test_the_package_is_imported_without_torch_and_the_core_starts_with_one_thread() -> None:
    code = "import sys, monolith_py; assert 'torch' not in sys.modules; from monolith_py import _core; print(_core.num_threads())"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "1\n"
