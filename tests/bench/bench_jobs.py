"""Jobs of benches beside published figures: a model with a row for every fid, and stored features of users and items."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from job_file import Setting, write_job

from monolith_py.config import JobConfig
from monolith_py.data.columns import FeatureColumns, SparseColumn
from monolith_py.io import open_kv
from monolith_py.io.codec import encode_features
from monolith_py.pb import ranking_pb2 as pb
from monolith_py.training import CheckpointMeta, Trainer, save_checkpoint

_CHUNK = 20_000


@dataclass(frozen=True)
class BenchJob:
    """Shape of a job.

    `sparse` has source and fids of a bag of each sparse feature, `dense` the source of each dense feature of one value.
    """

    sparse: Sequence[tuple[str, int]]
    dense: Sequence[str]
    dim: int
    model: Mapping[str, Setting]  # settings of the section [model]
    num_rows: int  # of each sparse feature
    num_users: int
    num_items: int
    log_impressions: bool = True

    def prepare(self, folder: Path, generator: np.random.Generator) -> JobConfig:
        """Write job file, topics, stored features and a checkpoint to `folder`."""
        job = write_job(
            folder / "job.toml",
            [(f"s{place}", source) for place, (source, _) in enumerate(self.sparse)],
            {"click": "click"},
            {"model": self.model, "serving": {"log_impressions": self.log_impressions}},
            feature_settings={"dim": self.dim, "init_scale": 0.1},
            dense=[(f"d{place}", source) for place, source in enumerate(self.dense)],
        )
        with closing(open_kv(job.kv)) as kv:
            for kind, count in (("user", self.num_users), ("item", self.num_items)):
                for start in range(0, count, 500):
                    entities = range(start, min(count, start + 500))
                    kv.write({f"{kind}:{entity}": encode_features(self._stored(kind, generator)) for entity in entities})
        trainer = Trainer(job)
        for table in trainer.bags.tables.values():
            for start in range(0, self.num_rows, _CHUNK):
                table.find_or_insert(np.arange(start, min(self.num_rows, start + _CHUNK)), now_s=0)
        meta = CheckpointMeta("bench", 1, 0, 1, 0, 0, {}, 0, 1)
        save_checkpoint(Path(job.trainer.checkpoint_dir), trainer, meta, keep=1)
        return job

    def requests(self, generator: np.random.Generator, num_requests: int, num_candidates: int) -> list[bytes]:
        """Return different requests."""
        users = generator.integers(self.num_users, size=num_requests).tolist()
        items = generator.integers(0, self.num_items, (num_requests, num_candidates)).tolist()
        pairs = zip(users, items, strict=True)
        return [pb.RankRequest(user_id=user, item_ids=candidates).SerializeToString() for user, candidates in pairs]

    def _stored(self, kind: str, generator: np.random.Generator) -> FeatureColumns:
        sparse = {
            f"s{place}": SparseColumn(generator.integers(0, self.num_rows, num_fids), np.array([num_fids], np.int32))
            for place, (source, num_fids) in enumerate(self.sparse)
            if source == kind
        }
        names: Iterable[str] = (f"d{place}" for place, source in enumerate(self.dense) if source == kind)
        return FeatureColumns(1, sparse, {name: generator.normal(size=(1, 1)).astype(np.float32) for name in names})
