"""Streams of requests with their candidates, labels and actions, for the evidence on online learning.

Letters: R requests in order of time, n candidates of all requests, T tasks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from streams import live_counter_values

from monolith_py.config import JobConfig, parse_job
from monolith_py.data.columns import FeatureColumns, FloatArray, Int64Array, SparseColumn
from monolith_py.data.events import Action, Impression

BoolArray = npt.NDArray[np.bool_]

# Kind of the action that closes a candidate, where a stream has one.
TERMINAL = "play_end"
# The joiner's window where a stream sets none (JoinerConfig).
DEFAULT_WINDOW_S = 600.0


@dataclass(frozen=True)
class OnlineStream:
    """R requests with n candidates; the actions on a candidate have one time."""

    name: str
    about: str  # origin, split and delays, for the report
    settings: dict[str, Any]  # job without name, seed, log, kv and checkpoint folder
    times_ms: Int64Array  # (R,)
    users: Int64Array  # (R,)
    starts: Int64Array  # (R + 1,) first candidate of each request, then n
    items: Int64Array  # (n,)
    shared: dict[str, SparseColumn]  # R rows each
    candidates: dict[str, SparseColumn]  # n rows each
    labels: dict[str, BoolArray]  # task -> (n,); the kind of its action has the same name
    action_times_ms: Int64Array  # (n,)
    is_terminal: BoolArray  # (n,) a terminal action at the same time as the others
    groups: Int64Array  # (R,) 0 to G - 1: resampled as a whole
    live_from: int  # requests from here on are scored
    dense: dict[str, FloatArray] = field(default_factory=dict)  # n rows each: served counters
    truth: FloatArray | None = None  # (n,) true probabilities of the first task, where they are known

    def __len__(self) -> int:
        return len(self.times_ms)

    @property
    def request_of(self) -> Int64Array:
        """Return the request of each candidate, int64 (n,)."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))

    @property
    def tasks(self) -> tuple[str, ...]:
        """Return the tasks in the order of the job."""
        return tuple(task["name"] for task in self.settings["tasks"])

    @property
    def is_listwise(self) -> bool:
        """Return whether a request has several candidates."""
        return len(self.items) > len(self)

    @property
    def window_ms(self) -> int:
        """Return the joiner's window in milliseconds."""
        return round(1000 * self.settings.get("joiner", {}).get("window_s", DEFAULT_WINDOW_S))

    @property
    def known_ms(self) -> Int64Array:
        """Return the time at which the labels of each candidate are known, int64 (n,): the joiner's rule for labels as they come.

        A positive after the window is known at its action, as if no negative had been learnt in between.
        """
        everything = np.logical_and.reduce(list(self.labels.values()))
        deadline_ms = self.times_ms[self.request_of] + self.window_ms
        any_positive = np.logical_or.reduce(list(self.labels.values()))
        acted = self.is_terminal | everything | (any_positive & (self.action_times_ms >= deadline_ms))
        return np.where(acted, self.action_times_ms, deadline_ms)

    def job(self, seed: int, root: str, **sections: Any) -> JobConfig:
        """Return the job with log, store and checkpoints under the folder `root`; `sections` are merged into those of the stream."""
        merged = {**self.settings}
        for name, section in sections.items():
            merged[name] = {**merged.get(name, {}), **section} if isinstance(section, dict) else section
        log = {"url": f"sqlite:///{root}/log", **merged.pop("log", {})}
        trainer = {"checkpoint_dir": f"{root}/checkpoints", "num_threads": 1, **merged.pop("trainer", {})}
        return parse_job(
            {"name": self.name, "seed": seed, "log": log, "kv": {"url": f"sqlite:///{root}/kv.db"}, "trainer": trainer, **merged}
        )

    def request_id(self, index: int) -> str:
        """Return the id of a request."""
        return f"{self.name}-{index:07d}"

    def impressions(self, requests: range) -> Iterator[Impression]:
        """Yield the impressions of `requests`, without scores."""
        shared = {name: _Rows(column) for name, column in self.shared.items()}
        candidates = {name: _Rows(column) for name, column in self.candidates.items()}
        for index in requests:
            start, stop = int(self.starts[index]), int(self.starts[index + 1])
            yield Impression(
                request_id=self.request_id(index),
                time_ms=int(self.times_ms[index]),
                user_id=int(self.users[index]),
                item_ids=self.items[start:stop],
                shared=FeatureColumns(1, {name: rows.between(index, index + 1) for name, rows in shared.items()}),
                candidates=FeatureColumns(
                    stop - start,
                    {name: rows.between(start, stop) for name, rows in candidates.items()},
                    {name: values[start:stop] for name, values in self.dense.items()},
                ),
                scores=np.zeros((stop - start, 0), np.float32),
            )

    def actions(self, requests: range) -> list[Action]:
        """Return the actions on `requests` in order of time; the terminal one of a candidate comes last."""
        first, last = int(self.starts[requests.start]), int(self.starts[requests.stop])
        kinds = [*self.labels.items(), (TERMINAL, self.is_terminal)]
        any_kind = np.logical_or.reduce([done for _, done in kinds])
        rows = first + np.flatnonzero(any_kind[first:last])
        rows = rows[np.argsort(self.action_times_ms[rows], kind="stable")]
        request_of = self.request_of
        return [
            Action(self.request_id(int(request_of[row])), int(self.items[row]), kind, int(self.action_times_ms[row]))
            for row in rows
            for kind, done in kinds
            if done[row]
        ]

    def features(self, requests: range) -> FeatureColumns:
        """Return the features of all candidates of `requests`, as examples have them."""
        start, stop = int(self.starts[requests.start]), int(self.starts[requests.stop])
        num = np.diff(self.starts)[requests.start : requests.stop]
        shared = {name: _repeated(column.slice(requests.start, requests.stop), num) for name, column in self.shared.items()}
        candidates = {name: column.slice(start, stop) for name, column in self.candidates.items()}
        return FeatureColumns(stop - start, shared | candidates, {name: values[start:stop] for name, values in self.dense.items()})

    def fids(self, name: str) -> Int64Array:
        """Return the fid of a feature with one fid in each row, for each candidate: int64 (n,)."""
        fids = self.candidates[name].fids if name in self.candidates else self.shared[name].fids[self.request_of]
        assert len(fids) == len(self.items), name
        return fids

    def with_counters(self, keys: tuple[str, ...]) -> OnlineStream:
        """Return the stream with live counters of `keys` in its impressions, of what was known at the request, and in its job.

        The prior rate is that of the history, which an operator knows.
        """
        outcomes = np.stack(list(self.labels.values()), axis=1)  # (n, T)
        history = outcomes[: self.starts[self.live_from]]
        counters = {"enabled": True, "keys": keys, "prior_rate": float(np.clip(history.mean(), 1e-3, 0.5))}
        asked_ms, known_ms = self.times_ms[self.request_of], self.known_ms
        dense = {}
        for key in keys:
            counts = known_counts(self.fids(key), outcomes, asked_ms, known_ms)
            dense[f"counter_{key}"] = live_counter_values(counts, counters["prior_rate"])
        return dataclasses.replace(self, dense=dense, settings={**self.settings, "counters": counters})

    def head(self, num_requests: int) -> OnlineStream:
        """Return the first `num_requests` requests, split at the same share."""
        if num_requests >= len(self):
            return self
        num = int(self.starts[num_requests])
        return dataclasses.replace(
            self,
            times_ms=self.times_ms[:num_requests],
            users=self.users[:num_requests],
            starts=self.starts[: num_requests + 1],
            items=self.items[:num],
            shared={name: column.slice(0, num_requests) for name, column in self.shared.items()},
            candidates={name: column.slice(0, num) for name, column in self.candidates.items()},
            labels={task: values[:num] for task, values in self.labels.items()},
            action_times_ms=self.action_times_ms[:num],
            is_terminal=self.is_terminal[:num],
            groups=np.unique(self.groups[:num_requests], return_inverse=True)[1],
            live_from=num_requests * self.live_from // len(self),
            dense={name: values[:num] for name, values in self.dense.items()},
            truth=None if self.truth is None else self.truth[:num],
        )


def known_counts(keys: Int64Array, outcomes: BoolArray, asked_ms: Int64Array, known_ms: Int64Array) -> Int64Array:
    """Return how many examples of its key each candidate knows of at `asked_ms`, and their positives: int64 (n, 1 + T).

    An example counts once its labels are known, strictly before the request. `asked_ms` must be sorted.
    """
    _, inverse = np.unique(keys, return_inverse=True)
    order = np.argsort(known_ms, kind="stable")
    added = np.concatenate([np.ones((len(keys), 1), np.int64), outcomes.astype(np.int64)], axis=1)
    totals = np.zeros((int(inverse.max()) + 1, added.shape[1]), np.int64)
    counts = np.empty((len(keys), added.shape[1]), np.int64)
    # Requests between two changes are answered together.
    bounds = np.searchsorted(known_ms[order], asked_ms, side="left")
    changes = np.flatnonzero(np.r_[True, bounds[1:] != bounds[:-1]])
    done = 0
    for start, stop in zip(changes, np.r_[changes[1:], len(keys)], strict=True):
        upto = int(bounds[start])
        np.add.at(totals, inverse[order[done:upto]], added[order[done:upto]])
        done = upto
        counts[start:stop] = totals[inverse[start:stop]]
    return counts


class _Rows:
    """Rows of a sparse column, found without summing the lengths before them."""

    def __init__(self, column: SparseColumn) -> None:
        self._column = column
        self._starts = np.r_[0, np.cumsum(column.lengths)]

    def between(self, start: int, stop: int) -> SparseColumn:
        """Return rows [start, stop)."""
        return SparseColumn(self._column.fids[self._starts[start] : self._starts[stop]], self._column.lengths[start:stop])


def _repeated(column: SparseColumn, times: Int64Array) -> SparseColumn:
    """Return each row as often as `times` says."""
    rows = np.repeat(np.arange(len(column)), times)
    lengths = column.lengths[rows]
    starts = np.r_[0, np.cumsum(column.lengths)][:-1][rows]
    within = np.arange(int(lengths.sum())) - np.repeat(np.r_[0, np.cumsum(lengths)[:-1]], lengths)
    return SparseColumn(column.fids[np.repeat(starts, lengths) + within], lengths)
