"""Valid impressions whose features become arrays only when an example needs them.

Arrays of 36 columns take 200 us an impression: all the time there is at 5,000 impressions/s.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from monolith_py.data.served import ServedModel
from monolith_py.errors import WireError
from monolith_py.io.codec.impression_rules import check_features, check_request
from monolith_py.io.codec.messages import parse
from monolith_py.io.codec.wire_patterns import FlatColumns, WirePatterns
from monolith_py.pb import example_pb2 as pb


class ImpressionView:
    """A valid impression of B candidates: its bytes, parsed at the first use. Equal only to itself."""

    __slots__ = ("_flat", "_message", "value")

    def __init__(self, value: bytes, message: pb.Impression | None = None, flat: FlatColumns | None = None) -> None:
        """View `value`, an impression that `parse_impression` found valid; `message` and `flat` are its known forms."""
        self.value = value
        self._message, self._flat = message, flat

    @property
    def message(self) -> pb.Impression:
        """The parsed message, for the codec only."""
        if self._message is None:
            self._message = pb.Impression.FromString(self.value)
        return self._message

    @property
    def request_id(self) -> str:
        """Id of the request."""
        return str(self.message.request_id)

    @property
    def time_ms(self) -> int:
        """Event time."""
        return int(self.message.time_ms)

    @property
    def user_id(self) -> int:
        """User of the request."""
        return int(self.message.user_id)

    @property
    def item_ids(self) -> list[int]:
        """Item of each candidate, (B,); a new list at each call."""
        return list(self.message.item_ids)

    @property
    def model(self) -> ServedModel:
        """Model that scored the candidates."""
        message = self.message
        return ServedModel(message.arm, message.model_version)

    @property
    def shared_bytes(self) -> int:
        """Size of the features that all candidates share, which each example repeats."""
        return int(self.message.shared.ByteSize())

    def scores_of(self, row: int, tasks: Sequence[str], numbers: Sequence[bool]) -> list[float]:
        """Return the served score of candidate `row` for each of `tasks`; NaN without one. Those above 1 count where `numbers` says so."""
        names, scores = self.message.task_names, self.message.scores
        first = row * len(names)
        by_task = dict(zip(names, scores[first : first + len(names)], strict=True))
        found = [(by_task.get(task, math.nan), math.inf if is_number else 1.0) for task, is_number in zip(tasks, numbers, strict=True)]
        return [score if 0.0 <= score <= most else math.nan for score, most in found]

    def bag(self, feature: str, row: int) -> Sequence[int]:
        """Return the fids of a sparse feature of candidate `row`, none without the feature."""
        for part, place in ((self.message.shared, 0), (self.message.candidates, row)):
            for column in part.sparse:
                if column.name == feature:
                    if not column.lengths:
                        return [column.fids[place]]
                    start = sum(column.lengths[:place])
                    return list(column.fids[start : start + column.lengths[place]])
        return ()

    def flat_columns(self, patterns: WirePatterns) -> FlatColumns | None:
        """Return the features, None if there are several candidates or columns of other than one fid."""
        if self._flat is None:
            self._flat = patterns.columns_of(self.message)
        return self._flat


def parse_impression(value: bytes, patterns: WirePatterns) -> ImpressionView:
    """Return a view of the impression in `value`.

    Raises:
        WireError: the value breaks a rule of `decode_impression`, a feature is both shared and a candidate's, or a dense column does not
            have the job's width.
    """
    message = parse(pb.Impression(), value)
    check_request(message)
    flat = patterns.flatten(message)
    if flat is None:  # a match proves that the features are valid
        both = check_features(message)
        if both:
            raise WireError(f"impression.candidates names must differ from those of impression.shared, got {sorted(both)} in both")
        _check_widths(message.shared, 1, patterns.widths, "shared")
        _check_widths(message.candidates, len(message.item_ids), patterns.widths, "candidates")
        patterns.learn(message)
    return ImpressionView(value, message, flat)


def _check_widths(part: pb.FeatureColumns, num_rows: int, widths: Mapping[str, int], field: str) -> None:
    for dense in part.dense:
        expected = widths.get(dense.name)
        if expected is not None and len(dense.values) != expected * num_rows:
            rule = f"must have {num_rows} rows x {expected} values"
            raise WireError(f"impression.{field}.{dense.name} {rule}, got {len(dense.values)} values")
