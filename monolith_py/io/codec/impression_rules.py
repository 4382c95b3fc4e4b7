"""Rules of a valid impression: one set for the decoder and for the joiner's view."""

from __future__ import annotations

from monolith_py.errors import WireError
from monolith_py.io.codec.columns import check_columns, check_finite
from monolith_py.pb import example_pb2 as pb

# Longest text in an event, in characters: ids and names, no contents.
MAX_TEXT_CHARS = 512


def check_text(field: str, text: str) -> None:
    """Check the length of a text.

    Raises:
        WireError: it is longer than MAX_TEXT_CHARS.
    """
    if len(text) > MAX_TEXT_CHARS:
        raise WireError(f"{field} must have at most {MAX_TEXT_CHARS} characters, got {len(text)}")


def check_event(kind: str, request_id: str, time_ms: int) -> None:
    """Check the fields that impressions and actions share.

    Raises:
        WireError: the request id is empty or too long, or the time is not positive.
    """
    if not request_id:
        raise WireError(f"{kind}.request_id must not be empty, got ''")
    check_text(f"{kind}.request_id", request_id)
    if time_ms <= 0:
        raise WireError(f"{kind}.time_ms must be > 0, got {time_ms}")


def check_request(message: pb.Impression) -> None:
    """Check everything but the features.

    Raises:
        WireError: no request id, time or candidate; a task name empty or twice; scores that do not fit the candidates or are not finite.
    """
    check_event("impression", message.request_id, message.time_ms)
    tasks, scores = message.task_names, message.scores
    num_candidates, num_tasks = len(message.item_ids), len(tasks)
    if num_candidates == 0:
        raise WireError("impression.item_ids must have at least one candidate, got 0")
    if len(set(tasks)) != num_tasks or "" in tasks:
        raise WireError(f"impression.task_names must be unique and not empty, got {list(tasks)}")
    if len(scores) != num_candidates * num_tasks:
        raise WireError(f"impression.scores must have {num_candidates} candidates x {num_tasks} tasks, got {len(scores)} values")
    check_text("impression.arm", message.arm)
    check_text("impression.model_version", message.model_version)
    check_finite(scores, "impression.scores")


def check_features(message: pb.Impression) -> set[str]:
    """Check the features; return the names that are both shared and a candidate's.

    Raises:
        WireError: a column breaks a rule of `check_columns`.
    """
    shared = check_columns(message.shared, 1, "impression.shared")
    return shared & check_columns(message.candidates, len(message.item_ids), "impression.candidates")
