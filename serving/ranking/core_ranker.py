"""Ranking in the core: from the bytes of a request to the bytes of its answer, without the GIL.

Python reads from Kv what the core's stores lack, keeps the time, and turns the outcome into errors. A request that breaks a rule is left to
`Ranker`, which knows all of them and words the refusals.
"""

from __future__ import annotations

import itertools
import threading
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from typing import NamedTuple

import numpy as np

from monolith_py import _core
from monolith_py.clock import Clock
from monolith_py.config import JobConfig
from monolith_py.data.columns import Int64Array
from monolith_py.data.events import EventTimeRule
from monolith_py.data.packed_rows import PackedRow, PackedRows
from monolith_py.data.schema import Schema
from monolith_py.errors import KvError, ModelNotFinite, NotReady, Overloaded
from monolith_py.observe.metrics import IMPRESSIONS_WITHHELD, RANK_CANDIDATES
from monolith_serving.features import returned
from monolith_serving.features.order import RequestOrder
from monolith_serving.features.store import FeatureStore, Reading
from monolith_serving.ranking.core_order import columns_of, entity_order, group_of, split_of
from monolith_serving.ranking.impression_encoder import ServedRequest
from monolith_serving.ranking.impression_log import ImpressionWriter
from monolith_serving.ranking.request import MAX_CONTRIBUTIONS, MIN_TIME_MS
from monolith_serving.replica.model_state import ModelState
from monolith_serving.replica.replica import Replica

# What a call takes from the core's stores: fresh entries; expired ones too; unknown entities in place of missing ones; such counters too.
_FRESH, _HELD, _ANY_ENTITIES, _ANY = range(4)


class _Packed(NamedTuple):
    """A state, and its model in the core."""

    state: ModelState
    model: _core.FixedModel


def runs_in_core(job: JobConfig) -> bool:
    """Return whether the core can rank the requests of a job on the CPU: it attends over sequences that candidates share alone."""
    sources = {"user_id", "item_id", "user", "item", "context", "candidate", "counter"}
    is_known = all(feature.source in sources for feature in Schema.of(job).all_features)
    shared = {"user_id", "user", "context"}
    is_known = is_known and all(feature.attend_to is None or feature.source in shared for feature in job.features)
    is_core = job.serving.engine != "fbgemm" and not job.serving.split.share
    return is_core and is_known and job.serving.feature_cache_s > 0


class CoreRanker:
    """Ranks requests from many threads. The core holds stored features and counters for `serving.feature_cache_s`."""

    def __init__(
        self,
        job: JobConfig,
        replica: Replica,
        store: FeatureStore,
        impressions: ImpressionWriter[ServedRequest | _core.RankedRequest] | None,
        clock: Clock,
    ) -> None:
        self._replica, self._store, self._impressions, self._clock = replica, store, impressions, clock
        self._config = config = job.serving
        schema = Schema.of(job)
        self._order = order = RequestOrder.of(schema, job.counters)
        self._split = split_of(schema, order)
        self._counted = (*order.shared_keys, *order.candidate_keys)
        rule = EventTimeRule.of(job.log)
        width = len(store.no_counter)
        self._core = _core.CoreRanker(
            entity_order(order.user),
            entity_order(order.item),
            columns_of(order.context),
            columns_of(order.candidate),
            group_of(schema, order.shared_names, order.shared_keys, order.shared_dense),
            group_of(schema, order.candidate_names, order.candidate_keys, order.candidate_dense),
            store.no_counter.tolist() if self._counted else [0.0] * width,
            ([*schema.sparse_names, *schema.dense_names], list(schema.tasks)),
            (
                config.max_candidates,
                config.max_fids,
                MIN_TIME_MS,
                rule.max_skew_ms,
                round(config.max_request_age_s * 1000),
                MAX_CONTRIBUTIONS,
                returned.MAX_RETURNED_VALUES,
            ),
            (config.feature_cache_entries, config.feature_cache_bytes),
        )
        self._packing = threading.Lock()
        self._packed: _Packed | None = None
        # Ids of requests that have none: unique over replicas and within this one.
        self._prefix, self._numbers = uuid.uuid4().hex[:16], itertools.count()

    @property
    def core(self) -> _core.CoreRanker:
        """Return the ranker of the core, with its stores."""
        return self._core

    def current(self) -> tuple[ModelState, _core.FixedModel]:
        """Return the current state and its model in the core, also if another thread still packs it.

        Raises:
            NotReady: no checkpoint was loaded yet.
        """
        return self._current(waits=True)

    def rank(self, value: bytes, deadline_s: float, is_active: Callable[[], bool] = lambda: True) -> _core.RankedRequest | None:
        """Return the answered request of the message `value`, None if `Ranker` must answer it; `deadline_s` is on the monotonic clock.

        Half of the time is for reading features. `is_active` tells whether the caller still waits.

        Raises:
            NotReady: no checkpoint was loaded yet.
            KvError: features cannot be read, and the settings want them.
            Overloaded: the answer would come after the deadline.
            TimeoutError: the deadline passed.
            CancelledError: the caller has left while features were read.
            ModelNotFinite: a probability is NaN or infinite.
        """
        packed = self._current()
        rows = packed.state.table.core
        if rows is None:
            return None
        begin_s = self._clock.monotonic_s()
        until_s = begin_s + (deadline_s - begin_s) / 2
        reading, failures = _FRESH, dict[str, Exception]()
        read: set[str] = set()
        while True:
            ranked = self._call(value, packed, rows, deadline_s, reading)
            if ranked.status != "missing":
                return self._checked(ranked, packed.state, deadline_s)
            # The counters to read are known once the features are there, or known to be out of reach.
            kind = "features" if reading < _ANY_ENTITIES and (ranked.missing_users or ranked.missing_items) else "counters"
            if kind in failures:
                raise failures[kind]
            if kind in read:  # the stores are too small to hold a request
                return None
            read.add(kind)
            try:
                (self._load_features if kind == "features" else self._load_counters)(ranked, Reading(until_s))
            except (KvError, TimeoutError) as error:
                failures[kind] = error
                unknown = _ANY_ENTITIES if kind == "features" else _ANY
                reading = _HELD if self._config.without_features == "refuse" else unknown
            if not is_active():
                raise CancelledError

    def rank_at_once(self, value: bytes, deadline_s: float) -> _core.RankedRequest | None:
        """Return the answered request of the message `value` as `rank` does; None if it must wait or takes long."""
        state, packed = self._replica.state, self._packed
        if packed is None or packed.state.model is not state.model:
            return None
        packed, rows = _Packed(state, packed.model), state.table.core
        if rows is None:
            return None
        ranked = self._call(value, packed, rows, deadline_s, _FRESH, is_quick=True)
        return None if ranked.status == "missing" else self._checked(ranked, state, deadline_s)

    def keep_up(self) -> None:
        """Pack the model of the newest state, so that no request waits for that, and nothing of an earlier state is kept."""
        with suppress(NotReady):
            self._current()

    def log(self, ranked: _core.RankedRequest) -> None:
        """Queue the impression of an answered request for the log."""
        if not ranked.is_complete:
            IMPRESSIONS_WITHHELD.labels(reason="features").inc()
        elif self._impressions is not None:
            self._impressions.put(ranked, ranked.num_bytes)

    def _call(
        self, value: bytes, packed: _Packed, rows: _core.ReplicaRowsHandle, deadline_s: float, reading: int, *, is_quick: bool = False
    ) -> _core.RankedRequest:
        now_s = self._clock.monotonic_s()
        if now_s >= deadline_s:
            raise TimeoutError("the deadline passed before the request was ranked")
        own_id = f"{self._prefix}{next(self._numbers):016x}"
        return self._core.rank(
            value,
            packed.model,
            rows,
            (own_id, packed.state.version),
            (self._clock.now_ms(), int(now_s * 1000), deadline_s - now_s),
            (self._replica.staleness_ms(), self._replica.event_staleness_ms()),
            reading,
            is_quick,
        )

    def _checked(self, ranked: _core.RankedRequest, state: ModelState, deadline_s: float) -> _core.RankedRequest | None:
        """Return an answered request, None for one that the core does not take."""
        status = ranked.status
        if status == "done":
            RANK_CANDIDATES.inc(ranked.num_scored)
            return ranked
        if status == "overloaded":
            left_s = deadline_s - self._clock.monotonic_s()
            raise Overloaded(f"request would take {ranked.expected_s:.3f} s with those before it, its deadline is in {left_s:.3f} s")
        if status == "late":
            raise TimeoutError("the deadline passed before the request was scored")
        if status == "not_finite":
            raise ModelNotFinite(f"probabilities of model {state.version} must be finite, got NaN or Inf")
        return None

    def _current(self, *, waits: bool = False) -> _Packed:
        """Return the current state with its model in the core.

        While another thread packs a new model, or if there is no memory for it, return the state before it, unless `waits`.
        """
        state, packed = self._replica.state, self._packed
        if packed is not None and packed.state is state:
            return packed
        if not self._packing.acquire(blocking=waits or packed is None):
            assert packed is not None
            return _Packed(state, packed.model) if packed.state.model is state.model else packed
        try:
            state, packed = self._replica.state, self._packed
            is_same = packed is not None and packed.state.model is state.model
            model = packed.model if packed is not None and is_same else state.model.fixed(self._split)
            # Kept for each delta, also one without weights: its rows are in the table, so an earlier version would be wrong.
            self._packed = _Packed(state, model)
            return self._packed
        except MemoryError:
            if packed is None or waits:
                raise
            return packed
        finally:
            self._packing.release()

    def _load_features(self, ranked: _core.RankedRequest, reading: Reading) -> None:
        """Read from Kv the entities that the core lacks. Raises `KvError`, `TimeoutError`; what could be read is kept."""
        failure, expires_ms = None, self._expires_ms()
        for kind, missing, put in (
            ("user", ranked.missing_users, self._core.put_users),
            ("item", ranked.missing_items, self._core.put_items),
        ):
            if missing:
                ids = list(dict.fromkeys(missing))
                try:
                    put(np.array(ids, np.int64), *_arrays(self._store.load(kind, ids, reading)), expires_ms)
                except (KvError, TimeoutError) as error:  # the items may be in another shard than the user
                    failure = failure or error
        if failure is not None:
            raise failure

    def _load_counters(self, ranked: _core.RankedRequest, reading: Reading) -> None:
        """Read from Kv the counters that the core lacks. Raises `KvError`, `TimeoutError`; what could be read is kept."""
        expires_ms = self._expires_ms()
        by_number: dict[int, list[int]] = {}
        for number, fid in dict.fromkeys(ranked.missing_counters):
            by_number.setdefault(number, []).append(fid)
        for number, fids in by_number.items():
            values = self._store.load_counters(self._counted[number], fids, reading)
            none = np.empty((len(fids), 0), np.int32), np.empty(0, np.int64)
            self._core.put_counters(number, np.array(fids, np.int64), *none, np.stack(values), expires_ms)

    def _expires_ms(self) -> int:
        return int((self._clock.monotonic_s() + self._config.feature_cache_s) * 1000)


def _arrays(rows: Sequence[PackedRow]) -> tuple[np.ndarray, Int64Array, np.ndarray]:
    packed = PackedRows.of(rows)
    return packed.lengths, packed.fids, packed.dense
