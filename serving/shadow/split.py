"""Split of the users between two models in one replica: a stable share is answered by the second one."""

from __future__ import annotations

import logging
from typing import Any

from monolith_py.config import JobConfig, SplitConfig, load_job
from monolith_py.data.schema import Schema
from monolith_py.errors import ConfigError
from monolith_py.io.log.topics import Topics
from monolith_py.observe.metrics import SPLIT_FALLBACKS
from monolith_py.pb import ranking_pb2 as pb
from monolith_py.pb import ranking_pb2_grpc as pb_grpc
from monolith_serving.replica.replica import Replica
from monolith_serving.service import RankingService
from monolith_serving.shadow.share import is_chosen

_logger = logging.getLogger(__name__)


class SplitService(pb_grpc.RankingServicer):  # type: ignore[misc]  # generated code has no types
    """Answers Rank with one of two services, by a hash of the user id. The impression says which arm has answered.

    A user keeps the arm over restarts and replicas, as long as `salt` and `share` stay; a larger share keeps the users of a smaller one.
    Until the second model is loaded, the first one answers for it.
    """

    def __init__(self, config: SplitConfig, first: RankingService, second: RankingService, replica: Replica) -> None:
        """Send a share of users to `second`, whose model is that of `replica`."""
        self._config, self._first, self._second, self._replica = config, first, second, replica

    def Rank(self, message: pb.RankRequest, context: Any) -> pb.RankResponse:  # noqa: N802 (the name in the proto)
        """Return the scores of the request's candidates; errors are those of `RankingService.Rank`."""
        if not is_chosen(str(message.user_id), self._config.share, self._config.salt):
            return self._first.Rank(message, context)
        if not self._replica.is_ready:
            SPLIT_FALLBACKS.inc()
            return self._first.Rank(message, context)
        return self._second.Rank(message, context)


def second_job(job: JobConfig) -> JobConfig:
    """Return the job of the second model.

    Raises:
        ConfigError: it cannot be read, or does not fit the first one: same log and tasks, another arm and model, no feature that the
            impressions of the first one lack.
    """
    other = load_job(job.serving.split.job)
    schema, own = Schema.of(other), Schema.of(job)
    rules = (
        (other.log.url == job.log.url and Topics.of(other.log).examples == Topics.of(job.log).examples, "have the same log"),
        (Topics.of(other.log).updates != Topics.of(job.log).updates, "have a log.model_prefix of its own"),
        (other.serving.arm != job.serving.arm, f"have another serving.arm than {job.serving.arm!r}"),
        (schema.tasks == own.tasks, f"have the tasks {list(own.tasks)}"),
        (set(schema.sparse_names) <= set(own.sparse_names), f"have no features but {list(own.sparse_names)}"),
        (dict(schema.dense_dims).items() <= dict(own.dense_dims).items(), f"have no dense features but {dict(own.dense_dims)}"),
    )
    for holds, rule in rules:
        if not holds:
            raise ConfigError(f"the job of serving.split.job must {rule}, got {job.serving.split.job!r}")
    return other


def arm_of(job: JobConfig, other: JobConfig) -> JobConfig:
    """Return the job by which requests of the second arm are read and logged: that of the first model, under the name of the arm."""
    return job.model_copy(update={"serving": job.serving.model_copy(update={"arm": other.serving.arm})})
