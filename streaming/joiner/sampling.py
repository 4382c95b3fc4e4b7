"""Negative sampling without a random generator.

The choice depends only on the ids and the rate: restarts and replays keep the same examples, and a higher rate keeps a superset.

A negative that turns positive late ends with the weight 1 of a positive: the retraction of a kept one takes back its weight 1 / rate, and
one that was sampled away is emitted as a whole example.
"""

from __future__ import annotations

import hashlib
import struct

# Makes this hash independent of every other hash of a request id, such as the one that chooses the partition.
_PERSON = b"negative sample"
_ITEM = struct.Struct("<q")


def is_kept(request_id: str, item_id: int, rate: float) -> bool:
    """Return whether sampling at `rate`, 0 < rate <= 1, keeps the example of this candidate.

    It is kept if the first 8 bytes of the BLAKE2b digest of request id and item id, as a number in [0, 1), are below the rate.

    >>> is_kept("r1", 7, 1.0)
    True
    """
    if rate >= 1.0:
        return True
    digest = hashlib.blake2b(request_id.encode() + _ITEM.pack(item_id), digest_size=8, person=_PERSON).digest()
    return int.from_bytes(digest, "little") < rate * 2.0**64
