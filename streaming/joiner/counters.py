"""Live counters in Kv: read, increased and written back, if no other joiner has changed them meanwhile.

Every candidate counts once, when its labels are first known. Negatives that are sampled away count too, so rates are those of the stream,
not of the sample. A late positive increases only the positives. The new counts are part of the joiner's transaction.
"""

from __future__ import annotations

import logging

import numpy as np

from monolith_py.data.columns import FeatureColumns, Int64Array
from monolith_py.data.counters import LiveCounters
from monolith_py.errors import WireError
from monolith_py.io import Kv
from monolith_py.observe import metrics

_logger = logging.getLogger(__name__)


def counted(
    kv: Kv, counters: LiveCounters, features: FeatureColumns, increments: Int64Array
) -> tuple[dict[str, bytes], dict[str, bytes | None]]:
    """Return the counters by key after and before adding `increments` to the fids of B rows.

    `increments`: int64 (B, 1 + tasks), examples and positives.
    """
    added: dict[str, Int64Array] = {}
    for name in counters.config.keys:
        column = features.sparse.get(name)
        if column is None or len(column.fids) == 0:
            continue
        rows = np.repeat(np.arange(features.num_rows), column.lengths)  # (n,)
        pairs = np.unique(np.stack([column.fids, rows]), axis=1)  # a fid that occurs twice in a row counts once
        fids, groups = np.unique(pairs[0], return_inverse=True)
        sums = np.zeros((len(fids), increments.shape[1]), np.int64)
        np.add.at(sums, groups, increments[pairs[1]])
        by_task = np.stack([np.broadcast_to(sums[:, :1], sums[:, 1:].shape), sums[:, 1:]], axis=2)  # (fids, tasks, 2)
        added.update(zip((counters.key(name, fid) for fid in fids.tolist()), by_task, strict=True))
    before = dict(zip(added, kv.get_many(list(added)), strict=True))
    return {key: counters.encode(_before(counters, before[key]) + sums) for key, sums in added.items()}, before


def _before(counters: LiveCounters, value: bytes | None) -> Int64Array:
    """Return the stored counts; zeros for bytes that are no counter."""
    try:
        return counters.decode(value)
    except WireError as error:
        metrics.COUNTERS_RESET.inc()
        _logger.debug("a counter begins anew: %s", error)
        return counters.decode(None)
