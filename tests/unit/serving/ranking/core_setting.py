"""The two paths of a request over one replica and one store, for tests of the core's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from monolith_py.clock import SystemClock
from monolith_py.config import JobConfig, parse_job
from monolith_py.data.columns import FeatureColumns, SparseColumn
from monolith_py.data.counters import LiveCounters
from monolith_py.data.events import EventTimeRule
from monolith_py.data.schema import Schema
from monolith_py.errors import NotReady
from monolith_py.io import MemoryKv
from monolith_py.io.codec import decode_impression, encode_features
from monolith_py.model import build_model
from monolith_py.pb import ranking_pb2 as pb
from monolith_py.sync import DenseState, RowEncoding, pack_rows
from monolith_serving.features.store import FeatureStore
from monolith_serving.ranking.core_ranker import CoreRanker
from monolith_serving.ranking.impression_encoder import ImpressionEncoder
from monolith_serving.ranking.ranker import Ranker
from monolith_serving.ranking.request import RequestParser
from monolith_serving.replica.dense_model import DenseModel
from monolith_serving.replica.device import Cpu
from monolith_serving.replica.model_state import ModelState
from monolith_serving.replica.table import ReplicaTable
from monolith_serving.service import RankingService

FAR_S = SystemClock().monotonic_s() + 1e6
TIME_MS = SystemClock().now_ms()
EXPERTS = [
    {"count": 4, "gate": "softmax"},
    {"count": 4, "gate": "tree", "top_k": 2},
    {"count": 4, "gate": "dense_to_sparse"},
    {"count": 4, "gate": "random"},
]
POOLINGS = ({"pooling": "sum"}, {"pooling": "mean"}, {"pooling": "first", "length": 1}, {"pooling": "first", "length": 3})
NUM_ROWS, NUM_USERS, NUM_ITEMS = 60, 5, 30
OTHER_TASKS = (
    {"action": "a", "kind": "regression"},
    {"action": "a", "kind": "regression", "scale": "value"},
    {"kind": "multiclass", "classes": ["a", "b", "c"]},
)


def model_of(job: JobConfig, seed: int, generator: np.random.Generator | None = None) -> DenseModel:
    """Return a model with the start weights of `seed`, moved at random with a `generator`."""
    model = build_model(Schema.of(job), job.model, seed)
    if generator is not None:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += torch.from_numpy(generator.normal(0, 0.05, parameter.shape).astype(np.float32))
    return DenseModel(Schema.of(job), job.model, DenseState.of(model.state_dict()))


class StillReplica:
    """A replica with random rows for fids below 60 of every feature; tests may replace `state`."""

    def __init__(self, job: JobConfig, encoding: RowEncoding, generator: np.random.Generator) -> None:
        schema = Schema.of(job)
        table = ReplicaTable(schema.features, encoding, torch.device("cpu"), engine="core")
        for feature in schema.features:
            weights = generator.normal(0, 0.3, (NUM_ROWS, feature.dim)).astype(np.float32)
            table.assign(feature.name, np.arange(NUM_ROWS), pack_rows(weights, encoding), encoding)
        model = model_of(job, 0, generator)
        self.state = ModelState(table, model, model.state, (4, 2), 0)
        self.is_loaded = True

    def require_ready(self) -> None:
        if not self.is_loaded:
            raise NotReady("no checkpoint")

    def staleness_ms(self) -> int:
        return 17

    def event_staleness_ms(self) -> int:
        return 23


class LoadingReplica:
    @property
    def state(self) -> ModelState:
        raise NotReady("no checkpoint")


class TorchReplica(StillReplica):
    """The same state, computed by torch."""

    def __init__(self, job: JobConfig, replica: StillReplica) -> None:
        self._job, self._replica = job, replica

    @property
    def state(self) -> ModelState:
        state = self._replica.state
        return replace(state, model=DenseModel(Schema.of(self._job), self._job.model, state.dense, Cpu()))

    def require_ready(self) -> None:
        self._replica.require_ready()


def random_job(generator: np.random.Generator) -> JobConfig:
    def pick(*choices):
        return choices[int(generator.integers(len(choices)))]

    sources = [pick("user", "item", "context", "candidate", "user_id", "item_id") for _ in range(generator.integers(0, 8))] + [
        "item_id",
        "user_id",
    ]
    dims, tower = pick([4], [8], [16], [12], [64], [4, 12, 16]), pick([], [40], [64, 33], [256, 128, 64])
    sparsity = {"preset": "static", "density": 0.5, "atom": pick("16x1", "1x1", "neuron")} if tower and generator.random() < 0.5 else {}
    parallel = [{"kind": "dcn", "cross_layers": 2, "structure": "parallel"}] if tower else []
    kind = pick({"kind": "deepfm"}, {"kind": "dlrm"}, {"kind": "dcn", "cross_rank": 9}, *parallel)
    experts = {"experts": pick(*EXPERTS)} if tower and "structure" not in kind and generator.random() < 0.5 else {}
    keys = sorted({f"f{generator.integers(len(sources))}" for _ in range(generator.integers(0, 3))})
    return parse_job(
        {
            "name": "random",
            "log": {"url": "sqlite:///unused"},
            "kv": {"url": "memory:"},
            "features": _with_attention(
                [
                    {"name": f"f{index}", "source": source, "dim": pick(*dims), **pick(*POOLINGS), **pick({}, {"encoding": "int4"})}
                    for index, source in enumerate(sources)
                ],
                generator,
            ),
            "dense_features": [
                {"name": f"d{index}", "source": pick("user", "item", "context", "candidate"), "dim": int(generator.integers(1, 5))}
                for index in range(generator.integers(0, 5))
            ],
            "tasks": [
                {"name": f"t{index}", **pick({"action": "a"}, {"action": "a"}, *OTHER_TASKS)} for index in range(generator.integers(1, 4))
            ],
            "counters": {"enabled": bool(keys), "keys": keys},
            "model": {
                "tower": tower,
                "precision": pick("fp32", "auto", "bf16"),
                **kind,
                **experts,
                "dropout": pick(0.0, 0.1) if tower else 0.0,
                "sparsity": sparsity,
            },
            "trainer": {"checkpoint_dir": "unused"},
        }
    )


def _with_attention(features: list[dict[str, Any]], generator: np.random.Generator) -> list[dict[str, Any]]:
    """Half of the sequences that candidates share attend to a feature of their dim, if there is one."""
    for feature in features:
        targets = [one["name"] for one in features if one["dim"] == feature["dim"] and one["pooling"] != "first"]
        is_shared = feature["source"] in ("user_id", "user", "context")
        if feature["pooling"] == "first" and is_shared and targets and generator.random() < 0.5:
            feature |= {"attend_to": targets[int(generator.integers(len(targets)))], "attention": [[], [12], [8, 5]][len(targets) % 3]}
    return features


def random_features(job: JobConfig, generator: np.random.Generator, source: str, num_rows: int = 1) -> FeatureColumns:
    schema = Schema.of(job)
    sparse, dense = {}, {}
    for feature in schema.features:
        if feature.source == source and generator.random() < 0.8:
            lengths = generator.choice([0, 1, 1, 1, 3, 5], num_rows).astype(np.int32)
            sparse[feature.name] = SparseColumn(generator.integers(0, NUM_ROWS + 20, lengths.sum()), lengths)
    for feature in schema.dense_features:
        if feature.source == source and generator.random() < 0.8:
            dense[feature.name] = generator.normal(size=(num_rows, feature.dim)).astype(np.float32)
    return FeatureColumns(num_rows, sparse, dense)


def add_columns(message: pb.RankRequest, columns: FeatureColumns) -> None:
    for name, column in columns.sparse.items():
        lengths = [] if (column.lengths == 1).all() else column.lengths.tolist()
        message.sparse.add(name=name, fids=column.fids.tolist(), lengths=lengths)
    for name, values in columns.dense.items():
        message.dense.add(name=name, values=values.ravel().tolist())


class EndedCall:
    """The part of a gRPC call that the service uses; it has ended, so nothing is logged."""

    def time_remaining(self) -> float:
        return 30.0

    def is_active(self) -> bool:
        return True

    def add_callback(self, callback) -> bool:
        return False


class Setting:
    """Both rankers over one replica and one store."""

    def __init__(self, job: JobConfig, generator: np.random.Generator, clock=None) -> None:
        self.job, self.generator, self.clock = job, generator, clock or SystemClock()
        schema, counters = Schema.of(job), LiveCounters.of(job)
        self.kv = MemoryKv()
        for kind, number in (("user", NUM_USERS), ("item", NUM_ITEMS)):
            self.kv.write({f"{kind}:{one}": encode_features(random_features(job, generator, kind)) for one in range(number)})
        for key in job.counters.keys if job.counters.enabled else ():
            counts = [generator.integers(0, 50, (len(schema.tasks), 2)) for _ in range(50)]
            self.kv.write({counters.key(key, fid): counters.encode(count) for fid, count in enumerate(counts)})
        self.store = FeatureStore(self.kv, schema, counters, job.serving, self.clock)
        encoding = [RowEncoding.INT8, RowEncoding.FP16, RowEncoding.FP32][generator.integers(3)]
        self.replica, self.kept = StillReplica(job, encoding, generator), []
        self.ranker = Ranker(job, TorchReplica(job, self.replica), self.store, None, self.clock)
        self.core = CoreRanker(job, self.replica, self.store, self, self.clock)

    def put(self, served, num_bytes: int) -> None:
        (value,) = ImpressionEncoder(self.job)([served])
        assert len(value) <= num_bytes + 1024
        self.kept.append(decode_impression(value))

    def request(self, num_candidates: int, **fields) -> pb.RankRequest:
        items = self.generator.integers(0, NUM_ITEMS + 10, num_candidates).tolist()
        message = pb.RankRequest(user_id=int(self.generator.integers(0, NUM_USERS + 3)), item_ids=items, **fields)
        add_columns(message.context, random_features(self.job, self.generator, "context"))
        add_columns(message.candidate_features, random_features(self.job, self.generator, "candidate", num_candidates))
        return message

    def rank(self, message: pb.RankRequest, deadline_s: float = FAR_S):
        return self.core.rank(message.SerializeToString(), deadline_s)

    def rank_by_service(self, message: pb.RankRequest) -> pb.RankResponse:
        """Return the answer of the Python path, with the model in the core."""
        config, tasks = self.job.serving, Schema.of(self.job).tasks
        ranker = Ranker(self.job, self.replica, self.store, None, self.clock)
        service = RankingService(ranker, self.replica, tasks, config, self.clock, EventTimeRule.of(self.job.log))
        return service.Rank(message, EndedCall())

    def rank_in_python(self, message: pb.RankRequest):
        parser = RequestParser(self.ranker.order, Schema.of(self.job).tasks, self.job.serving, EventTimeRule.of(self.job.log))
        request = parser.parse(message, request_id="own", now_ms=self.clock.now_ms())
        return request, self.ranker.rank(request, FAR_S)


def answer_of(ranked) -> tuple[pb.RankResponse, np.ndarray]:
    answer = pb.RankResponse.FromString(ranked.response)
    return answer, np.array(answer.scores, np.float32).reshape(ranked.num_candidates, len(answer.task_names))


def small_job() -> JobConfig:
    return parse_job(
        {
            "name": "small",
            "log": {"url": "sqlite:///unused"},
            "kv": {"url": "memory:"},
            "features": [
                {"name": name, "source": source, "dim": 8}
                for name, source in {"city": "user", "item": "item_id", "tab": "context", "tags": "item"}.items()
            ],
            "tasks": [{"name": "click", "action": "click"}],
            "model": {"tower": [16], "precision": "fp32"},
            "trainer": {"checkpoint_dir": "unused"},
        }
    )
