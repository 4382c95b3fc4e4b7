"""Stored features of users and items, and live counters, read from Kv through a cache."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

import numpy as np

from monolith_py.clock import Clock
from monolith_py.config import ServingConfig
from monolith_py.data.columns import FeatureColumns, FloatArray
from monolith_py.data.counters import LiveCounters
from monolith_py.data.packed_rows import PackedRow, PackedRows
from monolith_py.data.schema import Schema
from monolith_py.errors import KvError, WireError
from monolith_py.io import Kv
from monolith_py.io.codec import decode_features
from monolith_py.observe.metrics import FEATURES_BAD, FEATURES_MISSING, FEATURES_UNREAD
from monolith_serving.features.kv_reader import KvReader
from monolith_serving.features.order import FeatureOrder
from monolith_serving.log_limit import LogLimit

_logger = logging.getLogger(__name__)

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


@dataclass
class Reading:
    """Reads of one request: their time limit on the monotonic clock, and whether all stored features could be read."""

    until_s: float
    is_complete: bool = True


class TtlCache(Generic[_Key, _Value]):
    """Cache of at most `max_entries` values, each for `ttl_s` seconds; the oldest is dropped first. Safe for threads."""

    def __init__(self, ttl_s: float, max_entries: int, clock: Clock) -> None:
        self._ttl_s, self._max_entries, self._clock = ttl_s, max_entries, clock
        self._lock = threading.Lock()
        # Expiry (monotonic) and value, oldest first. A dict would pass all dropped entries on its way to the oldest.
        self._entries: OrderedDict[_Key, tuple[float, _Value]] = OrderedDict()

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

    def get_held(self, keys: Sequence[_Key]) -> list[_Value | None]:
        """Return the value of each key, expired or not, None for an absent one."""
        return [None if (entry := self._entries.get(key)) is None else entry[1] for key in keys]

    def _keep(self, loaded: dict[_Key, _Value], expires_s: float) -> None:
        with self._lock:
            for key, value in loaded.items():
                self._entries[key] = (expires_s, value)
                self._entries.move_to_end(key)
            while len(self._entries) > self._max_entries:
                self._entries.popitem(last=False)


class FeatureStore:
    """Features of users and items in packed form. An unknown user or item has no stored features; it is counted and served.

    While the store fails or hangs, or no time is left, a cached value serves on after its time. Without one the read is an error
    (`KvError`, `TimeoutError`), or, if `serving.without_features` is "serve", the entity is served without stored features, and the
    reading is not complete.
    """

    def __init__(self, kv: Kv, schema: Schema, counters: LiveCounters, config: ServingConfig, clock: Clock) -> None:
        self._reader = KvReader(kv, config.feature_threads, clock)
        self._config, self._counters = config, counters
        self._log_limit = LogLimit(clock)
        self.user_order = FeatureOrder.of(schema, "user", "user_id")
        self.item_order = FeatureOrder.of(schema, "item", "item_id")
        size, ttl_s = config.feature_cache_entries, config.feature_cache_s
        self._users: TtlCache[int, PackedRow] = TtlCache(ttl_s, size, clock)
        self._items: TtlCache[int, PackedRow] = TtlCache(ttl_s, size, clock)
        self.no_counter = counters.values(None)
        self._counts: TtlCache[str, FloatArray] = TtlCache(ttl_s, size, clock)

    def user(self, user_id: int, reading: Reading) -> PackedRows:
        """Return the features of one user, one row in `user_order`. Raises `KvError` if the store cannot be reached."""
        return self._entities("user", self._users, [user_id], self.user_order, reading)

    def items(self, item_ids: Sequence[int], reading: Reading) -> PackedRows:
        """Return the features of each item, rows in `item_order`. Raises `KvError` if the store cannot be reached."""
        return self._entities("item", self._items, item_ids, self.item_order, reading)

    def counters(self, feature: str, fids: Sequence[int], reading: Reading) -> FloatArray:
        """Return the counter values of each fid of `feature`, float32 (n, 1 + tasks). Raises `KvError` if the store cannot be reached."""
        keys = [self._counters.key(feature, fid) for fid in fids]
        load = partial(self._load_counters, reading)
        values = self._cached("counter", self._counts, keys, load, lambda _: self.no_counter, reading)
        return np.array(values, np.float32).reshape(len(keys), len(self.no_counter))

    def load(self, kind: str, ids: list[int], reading: Reading) -> list[PackedRow]:
        """Return the features of users or items ("user", "item") from the store, past the cache. Raises `KvError`, `TimeoutError`."""
        with self._counted(kind):
            return self._load(kind, self.user_order if kind == "user" else self.item_order, reading, ids)

    def load_counters(self, feature: str, fids: Sequence[int], reading: Reading) -> list[FloatArray]:
        """Return the counter values (1 + tasks,) of each fid from the store, past the cache. Raises `KvError`, `TimeoutError`."""
        with self._counted("counter"):
            return self._load_counters(reading, [self._counters.key(feature, fid) for fid in fids])

    def close(self) -> None:
        """End the reading threads."""
        self._reader.close()

    def _entities(
        self, kind: str, cache: TtlCache[int, PackedRow], ids: Sequence[int], order: FeatureOrder, reading: Reading
    ) -> PackedRows:
        load = partial(self._load, kind, order, reading)
        return PackedRows.of(self._cached(kind, cache, ids, load, lambda one: order.pack(None, one), reading))

    def _cached(
        self,
        kind: str,
        cache: TtlCache[_Key, _Value],
        keys: Sequence[_Key],
        load: Callable[[list[_Key]], list[_Value]],
        absent: Callable[[_Key], _Value],
        reading: Reading,
    ) -> list[_Value]:
        """Return the value of each key from the cache or from the store; see the class for a store that fails."""
        try:
            with self._counted(kind):
                return cache.get_many(keys, load)
        except (KvError, TimeoutError):
            held = cache.get_held(keys)
            if any(value is None for value in held):
                if self._config.without_features == "refuse":
                    raise
                reading.is_complete = False
            return [absent(key) if value is None else value for key, value in zip(keys, held, strict=True)]

    @contextmanager
    def _counted(self, kind: str) -> Iterator[None]:
        """Count and log a read that fails."""
        try:
            yield
        except (KvError, TimeoutError) as error:
            FEATURES_UNREAD.labels(entity=kind).inc()
            # No time left: the request brought too little, or a read before this one took it all and was warned of.
            if isinstance(error, KvError) and self._log_limit.allows("unread"):
                _logger.warning("stored features cannot be read: %s", error)
            raise

    def _load(self, kind: str, order: FeatureOrder, reading: Reading, ids: list[int]) -> list[PackedRow]:
        if not (order.sparse or order.dense):
            return [order.pack(None, one) for one in ids]
        rows = []
        for one, value in zip(ids, self._reader.get_many([f"{kind}:{one}" for one in ids], reading.until_s), strict=True):
            try:
                columns = None if value is None else decode_features(value)
                self._check_size(columns)
                rows.append(order.pack(columns, one))
            except WireError as error:
                self._note_bad(kind, error)
                rows.append(order.pack(None, one))
            if value is None:
                FEATURES_MISSING.labels(entity=kind).inc()
        return rows

    def _check_size(self, columns: FeatureColumns | None) -> None:
        """Check that no stored feature has more than `max_fids` fids.

        Raises:
            WireError: one has.
        """
        for name, column in () if columns is None else columns.sparse.items():
            if len(column.fids) > self._config.max_fids:
                raise WireError(f"features.{name} must have at most {self._config.max_fids} fids, got {len(column.fids)}")

    def _note_bad(self, kind: str, error: WireError) -> None:
        FEATURES_BAD.labels(entity=kind).inc()
        if self._log_limit.allows(kind):
            _logger.warning("stored features of one %s are ignored: %s", kind, error)

    def _load_counters(self, reading: Reading, keys: list[str]) -> list[FloatArray]:
        values = []
        for value in self._reader.get_many(keys, reading.until_s):
            try:
                values.append(self._counters.values(value))
            except WireError as error:
                self._note_bad("counter", error)
                values.append(self.no_counter)
        return values
