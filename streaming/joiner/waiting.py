"""A waiting request with its impression, in Python: of the backtest and of the reference."""

from __future__ import annotations

from dataclasses import dataclass

from monolith_py.io.codec.impression_view import ImpressionView
from monolith_streaming.joiner.request import Request


@dataclass(slots=True, eq=False)
class WaitingRequest:
    """A request and its impression: None before it arrives, and when no further example is possible."""

    request: Request
    offset: int = 0  # of the impression
    impression: ImpressionView | None = None
