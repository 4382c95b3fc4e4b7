"""Impressions served by a replica and actions of users.

Letters: B candidates.
"""

from __future__ import annotations

from dataclasses import dataclass

from monolith_py.data.columns import FeatureColumns, FloatArray, Int64Array


@dataclass(frozen=True)
class Impression:
    """One served request: its candidates and the features that scored them."""

    request_id: str
    time_ms: int
    user_id: int
    item_ids: Int64Array  # (B,)
    shared: FeatureColumns  # one row
    candidates: FeatureColumns  # B rows
    scores: FloatArray  # (B, tasks)
    task_names: tuple[str, ...] = ()
    model_version: str = ""
    arm: str = ""


@dataclass(frozen=True)
class Action:
    """An action of a user on one candidate of one request."""

    request_id: str
    item_id: int
    kind: str
    time_ms: int
    value: float = 1.0
