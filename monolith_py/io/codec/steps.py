"""The step of a record of `examples`, in the record's metadata: a JSON list [series, number, part, is last, epoch]."""

from __future__ import annotations

import json
from collections.abc import Mapping

from monolith_py.data.steps import JoinerStep
from monolith_py.errors import WireError

STEP_KEY = "step"


def step_to_metadata(mark: JoinerStep) -> dict[str, str]:
    """Return the entry of a record's metadata.

    >>> step_to_metadata(JoinerStep(1700000000000, 3, 0, True, 2))
    {'step': '[1700000000000,3,0,1,2]'}
    """
    return {STEP_KEY: f"[{mark.series},{mark.number},{mark.part},{int(mark.is_last)},{mark.epoch}]"}


def step_from_metadata(metadata: Mapping[str, str]) -> JoinerStep | None:
    """Return the step of a record with this metadata; None if its writer was no joiner: a replay, or a program of one's own.

    Raises:
        WireError: the entry is no step.
    """
    text = metadata.get(STEP_KEY)
    if text is None:
        return None
    try:
        series, number, part, is_last, epoch = map(int, json.loads(text))
    except (ValueError, TypeError) as error:
        raise WireError(f"examples.metadata[{STEP_KEY!r}] must be a list of five numbers, got {text[:100]!r}: {error}") from None
    return JoinerStep(series, number, part, bool(is_last), epoch)
