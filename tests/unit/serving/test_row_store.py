from __future__ import annotations

import ctypes
from pathlib import Path

import fbgemm_gpu
import pytest
import serving.row_store  # noqa: F401  (what it does to FBGEMM is under test)

CPUINFO = Path("/proc/cpuinfo")


@pytest.mark.skipif(not CPUINFO.exists() or " avx2 " not in CPUINFO.read_text(), reason="no AVX2")
def test_fbgemm_sees_the_vectors_of_the_processor() -> None:
    fbgemm = ctypes.CDLL(str(Path(fbgemm_gpu.__file__).parent / "fbgemm.so"))
    has_avx2 = fbgemm["_ZN6fbgemm20fbgemmHasAvx2SupportEv"]
    has_avx2.restype = ctypes.c_bool
    assert has_avx2()
