"""A call on the server: its time limit, and whether its answer was sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

# A thread waits no longer than this for a client's own deadline; nobody waits so long for a ranking.
MAX_DEADLINE_S = 30.0
_NO_DEADLINE_S = 86_400.0


def time_limit_s(context: Any, default_s: float) -> float:
    """Return the seconds left to the caller, `default_s` if it set no deadline."""
    remaining_s: float | None = context.time_remaining()
    # grpcio gives 9.2e18 seconds for a call without a deadline.
    if remaining_s is None or remaining_s > _NO_DEADLINE_S:
        return default_s
    return min(remaining_s, MAX_DEADLINE_S)


def on_end(context: Any, callback: Callable[[bool], None]) -> None:
    """Call `callback` once the call of `context` has ended, with whether an answer was handed to the connection before that."""

    if hasattr(context, "on_end"):  # a call of the C++ front
        context.on_end(callback)
        return

    def ended() -> None:
        # grpcio has no public way to tell an answered call from one that was cancelled or ran out of time.
        was_cut_off = context._state.client == "cancelled"
        code = context.code()
        callback((code is None or code.name == "OK") and not was_cut_off)

    if not context.add_callback(ended):
        callback(False)
