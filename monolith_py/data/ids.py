"""64-bit feature ids (fids) from the ids of applications: integers and strings.

A fid holds no feature number: every lookup is in the feature's own table, so two features never share a key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt


def fid_from_text(text: str) -> int:
    """Return the fid of a string: the first 8 bytes of its BLAKE2b digest, as a little-endian signed integer.

    A collision of two strings is unlikely (1e8 strings: 0.03 %). Use integers unchanged.

    >>> fid_from_text("pop")
    -5258012113498804276
    """
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def fids_from_texts(texts: Iterable[str]) -> npt.NDArray[np.int64]:
    """Return the fids of strings: int64 (n,)."""
    return np.fromiter((fid_from_text(text) for text in texts), dtype=np.int64)
