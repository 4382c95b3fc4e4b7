"""Appending of requests to forget rows."""

from __future__ import annotations

from collections.abc import Sequence

from monolith_py.data.forgetting import ForgetRequest
from monolith_py.io.codec import encode_forget_request
from monolith_py.io.log.log import Log

# 80 kB a record.
_FIDS_PER_REQUEST = 10_000


def append_forget_requests(log: Log, topic: str, feature: str, fids: Sequence[int], time_ms: int) -> int:
    """Append requests to forget the rows of `fids` and return the end offset; create the topic if a log of before lacks it.

    Nothing is learnt for these fids from impressions up to the event time `time_ms`.

    Raises:
        LogError: the log cannot be reached.
    """
    log.create_topic(topic)
    parts = (tuple(fids[first : first + _FIDS_PER_REQUEST]) for first in range(0, len(fids), _FIDS_PER_REQUEST))
    values = [encode_forget_request(ForgetRequest(feature, part, time_ms)) for part in parts]
    return log.append(topic, values, time_ms=time_ms)
