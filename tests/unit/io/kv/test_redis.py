"""Errors of the Redis client stop at RedisKv."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis

from monolith_py.errors import KvError
from monolith_py.io import Kv
from monolith_py.io.kv.redis import mapped_errors


@pytest.mark.needs_redis
def test_an_error_of_the_server_names_it_and_the_cause(redis_url: str, make_kv: Callable[..., Kv]) -> None:
    with pytest.raises(KvError, match=r"unix://.*: DB index is out of range"):
        make_kv(redis_url.replace("db=0", "db=99")).get_many(["a"])


def test_every_error_of_the_client_is_mapped() -> None:
    errors = {one for one in vars(redis.exceptions).values() if isinstance(one, type) and issubclass(one, Exception)}
    assert len(errors) > 20
    unmapped = set()
    for error in [*errors, ConnectionResetError]:
        try:
            with mapped_errors("redis://x"):
                raise error.__new__(error)
        except KvError:
            pass
        except Exception as other:
            unmapped.add(type(other).__name__)
    # The cluster client's, which RedisKv does not use, and a connection pool's that was taken across a fork.
    cluster = {"RedisClusterException", "SlotNotCoveredError", "CrossSlotTransactionError", "InvalidPipelineStack", "IncorrectPolicyType"}
    assert unmapped == cluster | {"ChildDeadlockedError"}
