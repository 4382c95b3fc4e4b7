"""Impressions as the joiner reads them: parsed and checked, but not turned into arrays before an example is made of them.

Turning 36 columns into arrays costs 200 us an impression, which is all the time that a joiner of 5,000 impressions/s has.
"""

from __future__ import annotations

from math import isfinite
from typing import NamedTuple

from google.protobuf.message import DecodeError

from monolith_py.errors import WireError
from monolith_py.features import Schema
from monolith_py.io.codec import decode_impression
from monolith_py.pb import example_pb2 as pb


class ParsedImpression(NamedTuple):
    """A valid impression of B candidates."""

    request_id: str
    time_ms: int
    item_ids: list[int]  # (B,)
    message: pb.Impression
    is_plain: bool  # each row of each sparse column has exactly one fid


def parse_impression(value: bytes, widths: dict[str, int]) -> ParsedImpression:
    """Return the impression in `value`; `widths` has the dim of each dense feature of the job.

    Raises:
        WireError: the value breaks a rule of `decode_impression`, or a dense column is not as wide as the job says.
    """
    try:
        message = pb.Impression.FromString(value)
        is_plain = _is_plain(message)
    except DecodeError:
        is_plain = False
    if not is_plain:
        decode_impression(value)  # raises where a rule is broken, naming field, value and rule
    item_ids = list(message.item_ids)
    if message.shared.dense or message.candidates.dense:
        _check_widths(message.shared, 1, widths, "shared")
        _check_widths(message.candidates, len(item_ids), widths, "candidates")
    return ParsedImpression(message.request_id, message.time_ms, item_ids, message, is_plain)


def dense_widths(schema: Schema) -> dict[str, int]:
    """Return the dim of each dense feature."""
    return {feature.name: feature.dim for feature in schema.dense_features}


def _is_plain(message: pb.Impression) -> bool:
    """Return whether the impression is valid, and each row of its sparse columns has exactly one fid.

    False means: not known here. The rules are those of `decode_impression`; a test holds them together.
    """
    num_candidates, num_tasks = len(message.item_ids), len(message.task_names)
    if not (message.request_id and message.time_ms > 0 and num_candidates):
        return False
    tasks, scores = message.task_names, message.scores
    if len(scores) != num_candidates * num_tasks or len(set(tasks)) != num_tasks or "" in tasks or not all(map(isfinite, scores)):
        return False
    for part, num_rows in ((message.shared, 1), (message.candidates, num_candidates)):
        names = {""}
        for sparse in part.sparse:
            if sparse.lengths or len(sparse.fids) != num_rows:
                return False
            names.add(sparse.name)
        for dense in part.dense:
            values = dense.values
            if len(values) % num_rows or not all(map(isfinite, values)):
                return False
            names.add(dense.name)
        if len(names) != 1 + len(part.sparse) + len(part.dense):
            return False
    return True


def _check_widths(part: pb.FeatureColumns, num_rows: int, widths: dict[str, int], field: str) -> None:
    for dense in part.dense:
        expected = widths.get(dense.name)
        if expected is not None and len(dense.values) != expected * num_rows:
            rule = f"must have {num_rows} rows x {expected} values"
            raise WireError(f"impression.{field}.{dense.name} {rule}, got {len(dense.values)} values")
