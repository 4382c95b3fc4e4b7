"""Stored features of users and items, and live counters, read from Kv through a cache."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import numpy as np

from monolith_py.clock import Clock
from monolith_py.config import CounterConfig, ServingConfig
from monolith_py.data.columns import FloatArray
from monolith_py.data.counters import counter_key, counter_values
from monolith_py.data.packed_rows import PackedRow, PackedRows
from monolith_py.data.schema import Schema
from monolith_py.errors import WireError
from monolith_py.io import Kv
from monolith_py.io.codec import decode_features
from monolith_py.observe.metrics import FEATURES_BAD, FEATURES_MISSING
from monolith_serving.features.order import FeatureOrder

_logger = logging.getLogger(__name__)

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class TtlCache(Generic[_Key, _Value]):
    """Cache of at most `max_entries` values, each for `ttl_s` seconds; the oldest is dropped first. Safe for threads."""

    def __init__(self, ttl_s: float, max_entries: int, clock: Clock) -> None:
        self._ttl_s, self._max_entries, self._clock = ttl_s, max_entries, clock
        self._lock = threading.Lock()
        self._entries: dict[_Key, tuple[float, _Value]] = {}  # expiry (monotonic), value; oldest first

    def get_many(self, keys: Sequence[_Key], load: Callable[[list[_Key]], list[_Value]]) -> list[_Value]:
        """Return the value of each key; `load` is called once with all absent keys."""
        now_s = self._clock.monotonic_s()
        entries = self._entries
        found = [entry[1] if (entry := entries.get(key)) is not None and entry[0] > now_s else None for key in keys]
        missing = list(dict.fromkeys(key for key, value in zip(keys, found, strict=True) if value is None))
        if not missing:
            return [value for value in found if value is not None]
        loaded = dict(zip(missing, load(missing), strict=True))
        if self._ttl_s > 0:
            self._keep(loaded, now_s + self._ttl_s)
        return [loaded[key] if value is None else value for key, value in zip(keys, found, strict=True)]

    def _keep(self, loaded: dict[_Key, _Value], expires_s: float) -> None:
        with self._lock:
            for key, value in loaded.items():
                self._entries.pop(key, None)
                self._entries[key] = (expires_s, value)
            for key in list(self._entries)[: max(0, len(self._entries) - self._max_entries)]:
                del self._entries[key]


class FeatureStore:
    """Features of users and items in packed form. An unknown user or item has no stored features; it is counted and served."""

    def __init__(self, kv: Kv, schema: Schema, counters: CounterConfig, config: ServingConfig, clock: Clock) -> None:
        self._kv, self._num_tasks, self._counters = kv, len(schema.tasks), counters
        self.user_order = FeatureOrder.of(schema, "user", "user_id")
        self.item_order = FeatureOrder.of(schema, "item", "item_id")
        size, ttl_s = config.feature_cache_entries, config.feature_cache_s
        self._users: TtlCache[int, PackedRow] = TtlCache(ttl_s, size, clock)
        self._items: TtlCache[int, PackedRow] = TtlCache(ttl_s, size, clock)
        self.no_counter = counter_values(None, counters, self._num_tasks)
        self._counts: TtlCache[str, FloatArray] = TtlCache(ttl_s, size, clock)

    def user(self, user_id: int) -> PackedRows:
        """Return the features of one user, one row in `user_order`. Raises `KvError` if the store cannot be reached."""
        return PackedRows.of(self._users.get_many([user_id], lambda ids: self._load("user", ids, self.user_order)))

    def items(self, item_ids: Sequence[int]) -> PackedRows:
        """Return the features of each item, rows in `item_order`. Raises `KvError` if the store cannot be reached."""
        return PackedRows.of(self._items.get_many(item_ids, lambda ids: self._load("item", ids, self.item_order)))

    def counters(self, feature: str, fids: Sequence[int]) -> FloatArray:
        """Return the counter values of each fid of `feature`, float32 (n, 1 + tasks). Raises `KvError` if the store cannot be reached."""
        keys = [counter_key(feature, fid) for fid in fids]
        values = self._counts.get_many(keys, self._load_counters)
        return np.array(values, np.float32).reshape(len(keys), 1 + self._num_tasks)

    def _load(self, kind: str, ids: list[int], order: FeatureOrder) -> list[PackedRow]:
        if not (order.sparse or order.dense):
            return [order.pack(None, one) for one in ids]
        rows = []
        for one, value in zip(ids, self._kv.get_many([f"{kind}:{one}" for one in ids]), strict=True):
            try:
                columns = None if value is None else decode_features(value)
                rows.append(order.pack(columns, one))
            except WireError as error:
                FEATURES_BAD.labels(entity=kind).inc()
                _logger.warning("stored features of one %s are ignored: %s", kind, error)
                rows.append(order.pack(None, one))
            if value is None:
                FEATURES_MISSING.labels(entity=kind).inc()
        return rows

    def _load_counters(self, keys: list[str]) -> list[FloatArray]:
        values = []
        for value in self._kv.get_many(keys):
            try:
                values.append(counter_values(value, self._counters, self._num_tasks))
            except WireError as error:
                FEATURES_BAD.labels(entity="counter").inc()
                _logger.warning("one stored counter is ignored: %s", error)
                values.append(counter_values(None, self._counters, self._num_tasks))
        return values
