"""Impressions as the joiner reads them: parsed and checked, but not turned into arrays before an example is made of them.

Turning 36 columns into arrays costs 200 us an impression, which is all the time that a joiner of 5,000 impressions/s has.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import NamedTuple

from google.protobuf.message import DecodeError

from monolith_py.data.schema import Schema
from monolith_py.errors import WireError
from monolith_py.io.codec.events import decode_impression
from monolith_py.io.codec.wire_patterns import FlatColumns, WirePatterns
from monolith_py.pb import example_pb2 as pb


class ParsedImpression(NamedTuple):
    """A valid impression of B candidates."""

    request_id: str
    time_ms: int
    item_ids: list[int]  # (B,)
    message: pb.Impression
    flat: FlatColumns | None  # its features, where they have a layout seen before


def parse_impression(value: bytes, layouts: WirePatterns) -> ParsedImpression:
    """Return the impression in `value`.

    Raises:
        WireError: the value breaks a rule of `decode_impression`, a feature is both shared and a candidate's, or a dense column is not
            as wide as the job says.
    """
    try:
        message = pb.Impression.FromString(value)
    except DecodeError:
        decode_impression(value)
        raise
    flat = None
    if _is_head_valid(message):
        flat = layouts.flatten(message)
        if flat is None and _are_columns_plain(message):
            layouts.learn(message)
        elif flat is None:
            decode_impression(value)  # raises where a rule is broken, naming field, value and rule
    else:
        decode_impression(value)
    item_ids = list(message.item_ids)
    if flat is None:
        _check_names(message)
        _check_widths(message.shared, 1, layouts.widths, "shared")
        _check_widths(message.candidates, len(item_ids), layouts.widths, "candidates")
    return ParsedImpression(message.request_id, message.time_ms, item_ids, message, flat)


def dense_widths(schema: Schema) -> dict[str, int]:
    """Return the dim of each dense feature."""
    return {feature.name: feature.dim for feature in schema.dense_features}


def _is_head_valid(message: pb.Impression) -> bool:
    """Return whether all but the columns is valid; the rules are those of `decode_impression`, and a test holds them together."""
    num_candidates, num_tasks = len(message.item_ids), len(message.task_names)
    if not (message.request_id and message.time_ms > 0 and num_candidates):
        return False
    tasks, scores = message.task_names, message.scores
    return len(scores) == num_candidates * num_tasks and len(set(tasks)) == num_tasks and "" not in tasks and all(map(isfinite, scores))


def _are_columns_plain(message: pb.Impression) -> bool:
    """Return whether the columns are valid and each row of the sparse ones has one fid. False: not known here."""
    names = {""}
    num_columns = 1
    for part, num_rows in ((message.shared, 1), (message.candidates, len(message.item_ids))):
        for sparse in part.sparse:
            if sparse.lengths or len(sparse.fids) != num_rows:
                return False
            names.add(sparse.name)
        for dense in part.dense:
            values = dense.values
            if len(values) % num_rows or not all(map(isfinite, values)):
                return False
            names.add(dense.name)
        num_columns += len(part.sparse) + len(part.dense)
    return len(names) == num_columns


def _check_names(message: pb.Impression) -> None:
    shared, candidates = ({column.name for column in (*part.sparse, *part.dense)} for part in (message.shared, message.candidates))
    both = sorted(shared & candidates)
    if both:
        raise WireError(f"impression.candidates names must differ from those of impression.shared, got {both} in both")


def _check_widths(part: pb.FeatureColumns, num_rows: int, widths: Mapping[str, int], field: str) -> None:
    for dense in part.dense:
        expected = widths.get(dense.name)
        if expected is not None and len(dense.values) != expected * num_rows:
            rule = f"must have {num_rows} rows x {expected} values"
            raise WireError(f"impression.{field}.{dense.name} {rule}, got {len(dense.values)} values")
