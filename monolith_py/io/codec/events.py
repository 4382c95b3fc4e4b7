"""Impressions, actions, stored features and dead letters to and from protobuf (protos/monolith/v1/example.proto)."""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np
from google.protobuf.message import DecodeError, Message

from monolith_py.data.columns import FeatureColumns
from monolith_py.data.events import Action, Impression
from monolith_py.errors import WireError
from monolith_py.io.codec.columns import columns_from_proto, columns_to_proto
from monolith_py.pb import example_pb2 as pb

_Message = TypeVar("_Message", bound=Message)


def encode_impression(impression: Impression) -> bytes:
    """Return `impression` as bytes."""
    assert impression.scores.shape == (len(impression.item_ids), len(impression.task_names)), impression.scores.shape
    assert impression.shared.num_rows == 1 and impression.candidates.num_rows == len(impression.item_ids)
    message = pb.Impression(
        request_id=impression.request_id,
        time_ms=impression.time_ms,
        user_id=impression.user_id,
        item_ids=impression.item_ids.tolist(),
        shared=columns_to_proto(impression.shared),
        candidates=columns_to_proto(impression.candidates),
        scores=impression.scores.ravel().tolist(),
        task_names=impression.task_names,
        model_version=impression.model_version,
    )
    return _serialize(message)


def decode_impression(value: bytes) -> Impression:
    """Return the impression in `value`.

    Raises:
        WireError: no impression, no request id, no candidate, no time, or columns or scores that do not fit the candidates.
    """
    message = _parse(pb.Impression(), value)
    _require_event("impression", message.request_id, message.time_ms)
    num_candidates, num_tasks = len(message.item_ids), len(message.task_names)
    if num_candidates == 0:
        raise WireError("impression.item_ids must have at least one candidate, got 0")
    if len(set(message.task_names)) != num_tasks or "" in message.task_names:
        raise WireError(f"impression.task_names must be unique and not empty, got {list(message.task_names)}")
    scores = np.array(message.scores, np.float32)
    if len(scores) != num_candidates * num_tasks:
        raise WireError(f"impression.scores must have {num_candidates} candidates x {num_tasks} tasks, got {len(scores)} values")
    if not np.isfinite(scores).all():
        raise WireError(f"impression.scores must be finite, got {scores[~np.isfinite(scores)][0]}")
    return Impression(
        request_id=message.request_id,
        time_ms=message.time_ms,
        user_id=message.user_id,
        item_ids=np.array(message.item_ids, np.int64),
        shared=columns_from_proto(message.shared, 1, "impression.shared"),
        candidates=columns_from_proto(message.candidates, num_candidates, "impression.candidates"),
        scores=scores.reshape(num_candidates, num_tasks),
        task_names=tuple(message.task_names),
        model_version=message.model_version,
    )


def encode_action(action: Action) -> bytes:
    """Return `action` as bytes."""
    message = pb.Action(request_id=action.request_id, item_id=action.item_id, kind=action.kind, time_ms=action.time_ms, value=action.value)
    return _serialize(message)


def decode_action(value: bytes) -> Action:
    """Return the action in `value`.

    Raises:
        WireError: no action, no request id, no kind, no time, or a value that is not finite.
    """
    message = _parse(pb.Action(), value)
    _require_event("action", message.request_id, message.time_ms)
    if not message.kind:
        raise WireError("action.kind must not be empty, got ''")
    if not math.isfinite(message.value):
        raise WireError(f"action.value must be finite, got {message.value}")
    return Action(message.request_id, message.item_id, message.kind, message.time_ms, message.value)


def encode_features(columns: FeatureColumns) -> bytes:
    """Return the stored features of one user or one item, which are one row, as bytes."""
    assert columns.num_rows == 1
    return _serialize(pb.StoredFeatures(columns=columns_to_proto(columns)))


def decode_features(value: bytes) -> FeatureColumns:
    """Return the stored features in `value`: one row.

    Raises:
        WireError: no stored features, or columns that are not one row.
    """
    return columns_from_proto(_parse(pb.StoredFeatures(), value).columns, 1, "features")


def encode_dead_letter(topic: str, partition: int, offset: int, value: bytes, reason: str, time_ms: int) -> bytes:
    """Return a refused message with where it lay, why it was refused and when (wall clock)."""
    message = pb.DeadLetter(topic=topic, partition=partition, offset=offset, reason=reason, time_ms=time_ms, value=value)
    return _serialize(message)


def decode_dead_letter(value: bytes) -> pb.DeadLetter:
    """Return the dead letter in `value`.

    Raises:
        WireError: no dead letter.
    """
    return _parse(pb.DeadLetter(), value)


def _serialize(message: Message) -> bytes:
    return message.SerializeToString(deterministic=True)


def _parse(message: _Message, value: bytes) -> _Message:
    try:
        message.ParseFromString(value)
    except DecodeError as error:
        descriptor = message.DESCRIPTOR
        raise WireError(f"{descriptor.name} must be a {descriptor.full_name} message, got {len(value)} bytes: {error}") from None
    return message


def _require_event(kind: str, request_id: str, time_ms: int) -> None:
    if not request_id:
        raise WireError(f"{kind}.request_id must not be empty, got ''")
    if time_ms <= 0:
        raise WireError(f"{kind}.time_ms must be > 0, got {time_ms}")
