"""Passes of the evidence on online learning: backtests and controls of one stream and seed; models of joined and replayed history.

Letters: N scored candidates.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from intervals import resampled_aucs
from online_controls import SETTINGS, constant, popularity, vowpal
from online_data import generated_stream, kuairand_stream, mind_stream, obd_stream
from online_log import write_log
from online_streams import OnlineStream
from online_variants import COUNTER_KEYS, DEFAULT, RESAMPLED, SLICE_S, OnlineVariant

from monolith_py import _core
from monolith_py.clock import SystemClock
from monolith_py.config import JobConfig
from monolith_py.data.columns import FloatArray, Int64Array
from monolith_py.io import open_log
from monolith_py.io.log.topics import create_topics
from monolith_py.model.batch import make_batch
from monolith_py.training import Trainer, auc
from monolith_streaming.backtest import BacktestOptions, BacktestResult, Figures, Slice, Timeline, run_backtest
from monolith_streaming.backtest.figures import figures_of
from monolith_streaming.joiner.process import run_joiner
from monolith_streaming.replay.beam import run_replay
from monolith_streaming.trainer.loop import OnlineTraining
from monolith_streaming.trainer.start import StartOptions

# Parts of the scored requests in plots.
NUM_PARTS = 24
_SCORED_AT_ONCE = 4096
_QUICK_REQUESTS = {"kuairand": 2000, "mind": 400, "obd": 20_000, "generated": 400}


@dataclass(frozen=True)
class Scored:
    """Scores of one arm or control: measures by task, and of the first task what intervals and plots need."""

    figures: Mapping[str, Figures]
    resampled: FloatArray | None  # (resamples,) AUC of each resample of the groups; None where no difference needs it
    curve: tuple[float, ...]  # AUC of consecutive parts


@dataclass(frozen=True)
class StreamOutcome:
    """Everything measured on one stream with one seed."""

    seed: int
    num_requests: int  # scored
    num_candidates: int  # scored
    num_positives: int  # of the first task, scored
    arms: Mapping[tuple[str, str], Scored]  # (variant, arm)
    controls: Mapping[str, Scored]
    oracle: float  # AUC of the true probabilities; NaN where they are not known
    label_age_s: Mapping[str, float]  # median age of a positive when it is learnt, by joiner.emit


@dataclass(frozen=True)
class HistoryOutcome:
    """AUC of a frozen model on the scored requests by seed, trained on history that was joined in one go, and replayed."""

    joined: tuple[float, ...]
    replayed: tuple[float, ...]
    num_examples: int


def stream_of(name: str, seed: int, data: Path, *, quick: bool) -> OnlineStream:
    """Return a stream; `seed` draws what the data do not have."""
    if name == "kuairand":
        stream = kuairand_stream()
    elif name == "generated":
        return generated_stream(seed, _QUICK_REQUESTS[name]) if quick else generated_stream(seed)
    else:
        stream = {"mind": mind_stream, "obd": obd_stream}[name](data, seed)
    return stream.head(_QUICK_REQUESTS[name]) if quick else stream


def run_stream(stream: OnlineStream, seed: int, variants: Sequence[OnlineVariant]) -> StreamOutcome:
    """Return the outcome of the variants, and of the controls if the defaults are one of them."""
    _one_thread()
    first = int(stream.starts[stream.live_from])
    labels = stream.labels[stream.tasks[0]][first:].astype(np.float32)
    groups = np.unique(stream.groups[stream.request_of[first:]], return_inverse=True)[1]
    controls = {}
    if DEFAULT in variants:
        controls = {"constant": constant(stream), "popularity": popularity(stream)}
        controls |= {f"vowpal {setting}".strip(): vowpal(stream, setting) for setting in SETTINGS[stream.name]}
    scored = {name: _scored_control(stream, labels, scores, groups) for name, scores in controls.items()}
    arms: dict[tuple[str, str], Scored] = {}
    with tempfile.TemporaryDirectory(prefix="online-") as folder:
        for variant, result in _results(stream, seed, variants, folder):
            figures = result.figures()
            arms |= {(variant.name, arm): _scored_arm(stream, result, figures[arm], (variant.name, arm)) for arm in result.scores}
    return StreamOutcome(
        seed=seed,
        num_requests=len(stream) - stream.live_from,
        num_candidates=len(labels),
        num_positives=int(labels.sum()),
        arms=arms,
        controls=scored,
        oracle=float("nan") if stream.truth is None else auc(labels, stream.truth[first:]),
        label_age_s=label_ages_s(stream),
    )


def merged(one: StreamOutcome, other: StreamOutcome) -> StreamOutcome:
    """Return two outcomes of one stream and seed as one."""
    return replace(one, arms={**one.arms, **other.arms}, controls={**one.controls, **other.controls})


def run_history(stream: OnlineStream, seeds: Sequence[int]) -> HistoryOutcome:
    """Return the AUC of frozen models trained on the history as `monolith join --stop-at-end` and as `monolith replay` join it."""
    _one_thread()
    history, live = range(stream.live_from), range(stream.live_from, len(stream))
    labels = stream.labels[stream.tasks[0]][int(stream.starts[stream.live_from]) :]
    aucs: dict[str, list[float]] = {"joined": [], "replayed": []}
    num_examples = 0
    with tempfile.TemporaryDirectory(prefix="online-") as folder:
        job = stream.job(0, folder, log={"topic_prefix": "joined."})
        write_log(job, stream, history)
        run_joiner(job, stop_at_end=True)
        replayed = stream.job(0, folder, log={"topic_prefix": "replayed."})
        with closing(open_log(job.log.url)) as log:
            create_topics(log, replayed.log)
        start_ms, end_ms = int(stream.times_ms[0]), int(stream.times_ms[stream.live_from - 1]) + 1
        run_replay(job, start_ms=start_ms, end_ms=end_ms, output="replayed.examples")
        for seed in seeds:
            for name in aucs:
                trainer = _train(
                    stream.job(seed, folder, log={"topic_prefix": f"{name}."}, trainer={"checkpoint_dir": f"{folder}/{name}-{seed}"})
                )
                num_examples = trainer.num_examples
                aucs[name].append(auc(labels, scores_of(trainer, stream, live)[:, 0]))
    return HistoryOutcome(tuple(aucs["joined"]), tuple(aucs["replayed"]), num_examples)


def scores_of(trainer: Trainer, stream: OnlineStream, requests: range) -> FloatArray:
    """Return the trainer's probabilities of all candidates of `requests`, float32 (N, tasks); nothing is learnt."""
    features, parts = stream.features(requests), []
    trainer.model.eval()
    for start in range(0, features.num_rows, _SCORED_AT_ONCE):
        batch = make_batch(features.slice(start, start + _SCORED_AT_ONCE), trainer.schema)
        with torch.no_grad():
            parts.append(torch.sigmoid(trainer.model(trainer.bags(batch.sparse()).values(), torch.from_numpy(batch.dense))).numpy())
    return np.concatenate(parts)


def label_ages_s(stream: OnlineStream) -> dict[str, float]:
    """Return the median seconds from a request to the learning of a positive of the first task, scored requests, by joiner.emit."""
    known_ms, request_of = stream.known_ms, stream.request_of
    last_ms = np.zeros(len(stream), np.int64)
    np.maximum.at(last_ms, request_of, known_ms)
    rows = np.flatnonzero(stream.labels[stream.tasks[0]])
    rows = rows[rows >= stream.starts[stream.live_from]]
    asked_ms = stream.times_ms[request_of[rows]]
    return {
        "candidate": float(np.median(known_ms[rows] - asked_ms)) / 1000,
        "request": float(np.median(last_ms[request_of[rows]] - asked_ms)) / 1000,
    }


def _results(
    stream: OnlineStream, seed: int, variants: Sequence[OnlineVariant], folder: str
) -> Iterator[tuple[OnlineVariant, BacktestResult]]:
    """Yield the result of each variant; those with the same log and joiner share a timeline."""
    kept: dict[str, list[Slice]] = {}
    for variant in sorted(
        variants,
        key=lambda variant: (variant.counters, "features" in variant.sections_of(stream), str(variant.sections_of(stream).get("joiner"))),
    ):
        served = stream.with_counters(COUNTER_KEYS[stream.name]) if variant.counters else stream
        job = served.job(seed, f"{folder}/{'counters' if variant.counters else 'plain'}", **variant.sections_of(stream))
        options = BacktestOptions(
            start_ms=int(stream.times_ms[stream.live_from]), batches=variant.batches, arms=variant.arms, slice_s=SLICE_S[stream.name]
        )
        key = f"{job.log.url} {job.joiner} {[feature.name for feature in job.features]}"
        if key not in kept:
            kept = {key: list(_timeline(job, served, options))}
        yield variant, run_backtest(job, kept[key], options)


def _timeline(job: JobConfig, stream: OnlineStream, options: BacktestOptions) -> Iterator[Slice]:
    """Yield the slices of the stream's log, which is written first if it is not there; they are cut at hours and days for every variant."""
    if not Path(job.log.url.removeprefix("sqlite:///")).exists():
        write_log(job, stream, range(len(stream)))
    with closing(open_log(job.log.url)) as log:
        yield from Timeline(job, log, BacktestOptions(start_ms=options.start_ms, arms=DEFAULT.arms, slice_s=options.slice_s))


def _scored_arm(stream: OnlineStream, result: BacktestResult, figures: Mapping[str, Figures], key: tuple[str, str]) -> Scored:
    requests = np.array([int(request_id.rpartition("-")[2]) for request_id in result.request_ids])
    groups = np.unique(stream.groups[requests], return_inverse=True)[1]
    labels, scores = result.labels[stream.tasks[0]], result.scores[key[1]][:, 0]
    return Scored(figures, resampled_aucs(labels, scores, groups) if key in RESAMPLED else None, _curve(labels, scores))


def _scored_control(stream: OnlineStream, labels: FloatArray, scores: FloatArray, groups: Int64Array) -> Scored:
    requests = stream.request_of[len(stream.items) - len(labels) :]
    return Scored({stream.tasks[0]: figures_of(labels, scores, requests)}, resampled_aucs(labels, scores, groups), _curve(labels, scores))


def _curve(labels: FloatArray, scores: FloatArray) -> tuple[float, ...]:
    """Return the AUC of consecutive parts with the same number of candidates."""
    return tuple(auc(*part) for part in zip(np.array_split(labels, NUM_PARTS), np.array_split(scores, NUM_PARTS), strict=True))


def _train(job: JobConfig) -> Trainer:
    """Return a trainer that has learnt the job's topic of examples, as `monolith train --stop-at-end` does."""
    with closing(open_log(job.log.url)) as log:
        # The models of all seeds share a log; each is new.
        training = OnlineTraining(job, log, SystemClock(), lambda: False, StartOptions(fresh=True))
        training.run(stop_at_end=True)
    return training.trainer


def _one_thread() -> None:
    torch.set_num_threads(1)
    _core.set_num_threads(1)
