"""Fixtures of deploy/: its folder, the board's script, streams, requests and jobs of the demo."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from monolith_demo.dataset.kuairand import Requests, Stream, one_fid
from monolith_demo.driver.job_files import Services, write_job_files
from monolith_py.config import JobConfig
from monolith_py.data.columns import FeatureColumns

DEPLOY = Path(__file__).parents[3] / "deploy"


@pytest.fixture(scope="session")
def deploy() -> Path:
    """Path of deploy/."""
    return DEPLOY


@pytest.fixture(scope="session")
def board_builder() -> ModuleType:
    """Module of the script deploy/grafana/build.py."""
    spec = importlib.util.spec_from_file_location("deploy_grafana_build", DEPLOY / "grafana" / "build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def make_stream() -> Callable[..., Stream]:
    """Return a function that makes a random stream of impressions with plays of all lengths, some without one."""

    def make(num: int = 200, seed: int = 0, longest_play_ms: int = 20_000) -> Stream:
        generator = np.random.default_rng(seed)
        played = generator.random(num) < 0.8
        plays_ms = np.where(played, generator.integers(1, longest_play_ms, num), 0)
        return Stream(
            users=generator.integers(1, 30, num),
            videos=generator.integers(100, 120, num),
            tabs=generator.integers(0, 5, num),
            times_ms=1_651_000_000_000 + np.cumsum(generator.integers(0, 1_000, num)),
            plays_ms=plays_ms,
            clicks=generator.random(num) < 0.5,
            long_views=played & (generator.random(num) < 0.4),
        )

    return make


@pytest.fixture(scope="session")
def make_requests() -> Callable[[Stream], Requests]:
    """Return a function that makes the requests of a stream, with stored features of its users and videos."""

    def make(stream: Stream) -> Requests:
        users = {user: FeatureColumns(1, {"user_active_degree": one_fid(user % 4)}) for user in set(stream.users.tolist())}
        videos = {video: FeatureColumns(1, {"author_id": one_fid(video % 7)}) for video in set(stream.videos.tolist())}
        return Requests(stream, users, videos)

    return make


@pytest.fixture
def make_demo_job(tmp_path: Path) -> Callable[..., JobConfig]:
    """Return a function that writes the demo's job files into this test's folder and loads the live job."""

    def make(*, counters: bool = False, partitions: int = 1) -> JobConfig:
        ports = range(40_001, 40_006)
        where = Services(f"sqlite:///{tmp_path}/log", f"sqlite:///{tmp_path}/kv.db", *ports)
        job = write_job_files(tmp_path, where, counters=counters).job
        return job.model_copy(update={"log": job.log.model_copy(update={"partitions": partitions})})

    return make
