"""Settings of a ranking replica."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from monolith_py.config.fields import Count, Positive, Settings


class ServingConfig(Settings):
    """One ranking replica."""

    renamed: ClassVar[Mapping[str, str]] = {
        "num_workers": "grpc_threads",
        "max_batch": "max_batch_candidates",
        "default_deadline_ms": "default_deadline_s (seconds)",
    }

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 50051
    # Off: the replica stays at the checkpoint it started from.
    follow_updates: bool = True
    log_impressions: bool = True
    grpc_threads: Count = 16
    # Candidates scored together at most, over all requests that wait.
    max_batch_candidates: Count = 4096
    max_candidates: Count = 2000
    default_deadline_s: Positive = 0.2
    feature_cache_s: Annotated[float, Field(ge=0)] = 30.0
    feature_cache_entries: Count = 200_000
    # Threads of torch; 0 takes all cores.
    num_threads: Annotated[int, Field(ge=0)] = 1
    device: Literal["auto", "cpu", "cuda"] = "auto"
    # How often the replica looks for a first checkpoint while it has none.
    checkpoint_poll_s: Positive = 0.5
    # The service reports NOT_SERVING once its newest delta is older than this; 0 never.
    max_staleness_s: Annotated[float, Field(ge=0)] = 0.0
    # File that gets a line "time_ms age_s rows" for each training step whose rows became servable.
    freshness_log: str | None = None
    # File that gets the port once the replica can rank (port 0 takes a free one).
    port_file: str | None = None
