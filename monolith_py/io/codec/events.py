"""Impressions, actions, stored features and dead letters to and from protobuf (protos/monolith/v1/example.proto)."""

from __future__ import annotations

import math
from dataclasses import asdict

import numpy as np

from monolith_py.data.columns import FeatureColumns
from monolith_py.data.events import Action, DeadLetter, Impression, LetterKind, Reinjection
from monolith_py.errors import WireError
from monolith_py.io.codec.columns import columns_from_proto, columns_to_proto, read_columns
from monolith_py.io.codec.impression_rules import check_event, check_features, check_request, check_text
from monolith_py.io.codec.messages import parse, serialize
from monolith_py.pb import example_pb2 as pb


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
        arm=impression.arm,
    )
    return serialize(message)


def decode_impression(value: bytes) -> Impression:
    """Return the impression in `value`.

    Raises:
        WireError: no impression, or one that breaks a rule of impression_rules.py.
    """
    message = parse(pb.Impression(), value)
    check_request(message)
    check_features(message)
    num_candidates, num_tasks = len(message.item_ids), len(message.task_names)
    return Impression(
        request_id=message.request_id,
        time_ms=message.time_ms,
        user_id=message.user_id,
        item_ids=np.array(message.item_ids, np.int64),
        shared=read_columns(message.shared, 1),
        candidates=read_columns(message.candidates, num_candidates),
        scores=np.array(message.scores, np.float32).reshape(num_candidates, num_tasks),
        task_names=tuple(message.task_names),
        model_version=message.model_version,
        arm=message.arm,
    )


def encode_action(action: Action) -> bytes:
    """Return `action` as bytes."""
    message = pb.Action(request_id=action.request_id, item_id=action.item_id, kind=action.kind, time_ms=action.time_ms, value=action.value)
    return serialize(message)


def decode_action(value: bytes) -> Action:
    """Return the action in `value`.

    Raises:
        WireError: no action, no request id, no kind, no time, a text that is too long, or a value that is not finite.
    """
    message = parse(pb.Action(), value)
    check_event("action", message.request_id, message.time_ms)
    if not message.kind:
        raise WireError("action.kind must not be empty, got ''")
    check_text("action.kind", message.kind)
    number = message.value if message.HasField("value") else 1.0
    if not math.isfinite(number):
        raise WireError(f"action.value must be finite, got {number}")
    return Action(message.request_id, message.item_id, message.kind, message.time_ms, number)


def event_time_ms(value: bytes, event: type[Action | Impression], default_ms: int) -> int:
    """Return the event time in the bytes of an action or impression, valid or not; `default_ms` without one."""
    try:
        message = parse(pb.Action() if event is Action else pb.Impression(), value)
    except WireError:
        return default_ms
    return message.time_ms or default_ms


def encode_features(columns: FeatureColumns) -> bytes:
    """Return the stored features of one user or one item, one row, as bytes."""
    assert columns.num_rows == 1
    return serialize(pb.StoredFeatures(columns=columns_to_proto(columns)))


def decode_features(value: bytes) -> FeatureColumns:
    """Return the stored features in `value`: one row.

    Raises:
        WireError: no stored features, or columns of more or less than one row.
    """
    return columns_from_proto(parse(pb.StoredFeatures(), value).columns, 1, "features")


def encode_dead_letter(letter: DeadLetter) -> bytes:
    """Return a refused message with its place in the log, the reason and the wall clock, as bytes."""
    kind = "" if letter.kind == LetterKind.BROKEN else str(letter.kind)
    return serialize(pb.DeadLetter(**(asdict(letter) | {"kind": kind})))


def encode_reinjection(reinjection: Reinjection) -> bytes:
    """Return a re-injection as bytes, for the topic of dead letters."""
    return serialize(pb.DeadLetter(reinjection=pb.Reinjection(**asdict(reinjection))))


def decode_dead_letter(value: bytes) -> DeadLetter:
    """Return the dead letter in `value`.

    Raises:
        WireError: no dead letter.
    """
    decoded = decode_letter_record(value)
    if isinstance(decoded, Reinjection):
        raise WireError("dead letter must be a refused message, got a re-injection")
    return decoded


def decode_letter_record(value: bytes) -> DeadLetter | Reinjection:
    """Return the dead letter or the re-injection in `value`.

    Raises:
        WireError: neither.
    """
    message = parse(pb.DeadLetter(), value)
    if message.HasField("reinjection"):
        one = message.reinjection
        letters, offsets = tuple(one.letters), tuple(one.offsets)
        return Reinjection(one.id, one.state, letters, one.topic, one.partition, one.start, offsets, one.time_ms)
    try:
        kind = LetterKind(message.kind or "broken")
    except ValueError:
        raise WireError(f"dead letter.kind must be one of {[str(kind) for kind in LetterKind]}, got {message.kind!r}") from None
    place = message.topic, message.partition, message.offset
    return DeadLetter(*place, message.value, message.reason, message.time_ms, message.value_bytes, kind)
