"""The hash of fids, pinned in hash.json: where a fid lies in the id map and what its row starts with follow from it.

Changing it changes the start values of all rows yet to be born, so that a replay no longer gives the same table.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from monolith_py import _core

GOLDEN = {int(fid): int(text, 16) for fid, text in json.loads(Path(__file__).with_name("hash.json").read_text()).items()}


def finaliser_of_murmur3(fid: int) -> int:
    """Appleby's fmix64, in whole numbers of any size."""
    x = fid % 2**64
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        x = (x ^ (x >> 33)) * factor % 2**64
    return x ^ (x >> 33)


def test_fids_have_the_pinned_hashes() -> None:
    assert {0, -1, 2**63 - 1, -(2**63)} <= GOLDEN.keys()
    assert dict(zip(GOLDEN, _core.hash_fids(np.array(list(GOLDEN))).tolist(), strict=True)) == GOLDEN


def test_the_hash_is_the_finaliser_of_murmur3() -> None:
    fids = np.random.default_rng(1).integers(-(2**63), 2**63 - 1, 1_000, endpoint=True)
    assert _core.hash_fids(fids).tolist() == [finaliser_of_murmur3(fid) for fid in fids.tolist()]
