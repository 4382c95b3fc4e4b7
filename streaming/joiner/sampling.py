"""Negative sampling without a random generator: whether an example is kept is a pure function of its ids and the rate.

A negative that was sampled away and turns positive late is emitted as a whole example of weight 1: a stream has few positives, and each is
worth more than an exact rate of negatives. Its other tasks are learnt as negatives a second time, in expectation, by that.

So a joiner that starts again, and a replay, keep the very same examples, and what is kept at a rate is kept at every higher one.
"""

from __future__ import annotations

import hashlib
import struct

# Sets this hash apart from every other hash of a request id, such as the one that chooses its partition.
_PERSON = b"negative sample"
_ITEM = struct.Struct("<q")


def is_kept(request_id: str, item_id: int, rate: float) -> bool:
    """Return whether the example of this candidate is in the share `rate` that is kept, 0 < rate <= 1.

    The first 8 bytes of a BLAKE2b digest of request id and item id, as a number in [0, 1), are compared with the rate.

    >>> is_kept("r1", 7, 1.0)
    True
    """
    if rate >= 1.0:
        return True
    digest = hashlib.blake2b(request_id.encode() + _ITEM.pack(item_id), digest_size=8, person=_PERSON).digest()
    return int.from_bytes(digest, "little") < rate * 2.0**64
