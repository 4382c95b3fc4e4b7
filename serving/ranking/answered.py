"""End of a call on the server: whether its answer was sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def on_end(context: Any, callback: Callable[[bool], None]) -> None:
    """Call `callback` once the call of `context` has ended, with whether an answer was handed to the connection before that."""

    def ended() -> None:
        # grpcio has no public way to tell an answered call from one that was cancelled or ran out of time.
        was_cut_off = context._state.client == "cancelled"
        code = context.code()
        callback((code is None or code.name == "OK") and not was_cut_off)

    if not context.add_callback(ended):
        callback(False)
