"""Tables as replicas have them: one for each feature, also for one that shares the table of another.

A replica then needs to know nothing of sharing: its rows, packed files and digests go by feature, for a copy of the rows in its memory
and in the updates.
"""

from __future__ import annotations

import logging

from monolith_py.data.columns import Int64Array
from monolith_py.sync import TouchedRows
from monolith_py.table import EmbeddingBags, EmbeddingTable, EncodedDelta

_logger = logging.getLogger(__name__)

# Consumer of the publisher; a feature that shares a table adds its name.
_REPLICAS = "replicas"


class SharedRows:
    """Rows of a table for a second feature, which is a consumer of its own."""

    def __init__(self, table: EmbeddingTable, feature: str) -> None:
        self._table, self._feature = table, feature

    @property
    def dim(self) -> int:
        """Return the width of a row."""
        return self._table.dim

    @property
    def encoding(self) -> str | None:
        """Return the encoding of the rows."""
        return self._table.encoding

    def drain_encoded(self, consumer: str) -> EncodedDelta:
        """Return the packed rows touched and the fids evicted since the last acknowledged drain for this feature."""
        return self._table.drain_encoded(self._name(consumer))

    def touch(self, consumer: str, fids: Int64Array) -> None:
        """Note `fids` as changed."""
        self._table.touch(self._name(consumer), fids)

    def ack(self, consumer: str, ticket: int) -> None:
        """Forget the changes of the drain `ticket`."""
        self._table.ack(self._name(consumer), ticket)

    def _name(self, consumer: str) -> str:
        return f"{consumer}/{self._feature}"


def published_tables(bags: EmbeddingBags) -> dict[str, TouchedRows]:
    """Return the rows to be published of each feature, by name.

    Consumers of a restored table that this job no longer has are forgotten: what waits for them would take memory for ever.
    """
    known = {_REPLICAS, *(f"{_REPLICAS}/{name}" for name in bags.sharing)}
    for owner, table in bags.tables.items():
        for consumer in sorted(table.consumers().keys() - known):
            _logger.warning("table %s: consumer %r is not of this job any more and was forgotten", owner, consumer)
            table.forget(consumer)
    tables: dict[str, TouchedRows] = dict(bags.tables)
    return tables | {name: SharedRows(bags.tables[owner], name) for name, owner in bags.sharing.items()}
