"""64-bit feature ids (fids) from what applications have: integers and strings.

A fid needs no room for its feature: the feature's own table is part of every lookup, so two features never share a key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt


def fid_from_text(text: str) -> int:
    """Return the fid of a string: the first 8 bytes of its BLAKE2b digest, as a little-endian signed integer.

    64 bits of a good hash make a collision of two strings unlikely (1e8 strings: 0.03 %); integers should be used as they are.

    >>> fid_from_text("pop")
    -5258012113498804276
    """
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def fids_from_texts(texts: Iterable[str]) -> npt.NDArray[np.int64]:
    """Return the fids of strings: int64 (n,)."""
    return np.fromiter((fid_from_text(text) for text in texts), dtype=np.int64)
