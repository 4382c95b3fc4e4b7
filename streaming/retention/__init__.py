"""Retention: which records no process needs any more, and their deletion."""

from monolith_streaming.retention.bounds import Bound, safe_bounds
from monolith_streaming.retention.rounds import RetentionRounds
from monolith_streaming.retention.trimming import measure, trim

__all__ = ["Bound", "RetentionRounds", "measure", "safe_bounds", "trim"]
