"""Retention: which records no process needs any more, and their deletion."""

from monolith_streaming.retention.bounds import Bound, checkpoint_metas, safe_bounds
from monolith_streaming.retention.limits import retention_faults
from monolith_streaming.retention.rounds import RetentionRounds
from monolith_streaming.retention.trimming import measure, trim

__all__ = ["Bound", "RetentionRounds", "checkpoint_metas", "measure", "retention_faults", "safe_bounds", "trim"]
