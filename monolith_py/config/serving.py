"""Settings of a ranking replica."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from monolith_py.config.fields import Count, FilePath, Name, Port, Seconds, SecondsOrZero, Settings, Threads
from monolith_py.config.security import ServingSecurityConfig
from monolith_py.config.versions import SplitConfig


class ServingConfig(Settings):
    """One ranking replica."""

    renamed: ClassVar[Mapping[str, str]] = {
        "num_workers": "grpc_threads",
        "max_batch": "max_batch_candidates",
        "default_deadline_ms": "default_deadline_s (seconds)",
    }

    # Arm of an experiment that this replica serves, in its impressions and in the figures of served quality.
    arm: Name = "live"
    # Second model, and its share of the users.
    split: SplitConfig = SplitConfig()
    # Address that the gRPC server listens on.
    host: FilePath = "127.0.0.1"
    # Port of the gRPC server; 0 takes a free one.
    port: Port = 50051
    # Port of the gRPC health service alone, without TLS and token, on `host`: for probes that have neither; 0: none.
    health_port: Port = 0
    # Apply updates from the log; false keeps the replica at its first checkpoint, unless follow_checkpoints is set.
    follow_updates: bool = True
    # Load each newer checkpoint of the trainer, in place of updates: a refresh in batches. Needs follow_updates = false.
    follow_checkpoints: bool = False
    # Serve the checkpoint that `monolith promote` has put into this channel, in place of the newest one. Needs follow_updates = false. With
    # follow_checkpoints each later promotion is loaded; without it the replica stays at the checkpoint of its start.
    channel: Name | None = None
    # Serve gRPC reflection, for tools such as grpcurl, in threads of its own.
    reflection: bool = False
    # Append an impression to the log for each answered request, unless the request sets `log_impression` to false.
    log_impressions: bool = True
    # Largest impression, in bytes; a larger one is counted as lost. The topic must accept records of this size.
    max_impression_bytes: Count = 8 << 20
    # Most bytes of impressions that wait for the log; further ones are counted as lost.
    impression_queue_bytes: Count = 64 << 20
    # Server of the calls: "python" is grpcio's; "cpp" is one in C++, which answers most calls without Python. It is there where the build
    # finds libgrpc++, needs a job that the core can rank, and takes no compressed requests.
    front: Literal["python", "cpp"] = "python"
    # Threads of the C++ server; 0 takes all cores.
    front_threads: Threads = 0
    # Requests handled at the same time; each takes a thread. With the C++ front: those that Python must answer.
    grpc_threads: Annotated[int, Field(ge=1, le=1024)] = 16
    # Most requests that wait for one of these threads; a further one is refused with RESOURCE_EXHAUSTED.
    max_waiting_requests: Count = 1000
    # Largest request, in bytes; gRPC refuses a larger one with RESOURCE_EXHAUSTED.
    max_request_bytes: Count = 1 << 20
    # Most candidates scored in one batch, over all waiting requests.
    max_batch_candidates: Count = 4096
    # Most candidates of a request; a larger one is refused.
    max_candidates: Count = 2000
    # Oldest event time of a request, in seconds before the replica's clock; an older one becomes the clock's time. 0: any, for a replay.
    max_request_age_s: SecondsOrZero = 86_400.0
    # Most fids of one feature: a request with more is refused, stored features with more are ignored.
    max_fids: Count = 4096
    # Deadline of a request without one, in seconds.
    default_deadline_s: Seconds = 0.2
    # Answer to a request whose stored features cannot be read in half of its time: scores without them, or UNAVAILABLE.
    without_features: Literal["serve", "refuse"] = "serve"
    # Threads that read stored features.
    feature_threads: Annotated[int, Field(ge=1, le=1024)] = 4
    # Time that stored features of users and items, and live counters, stay in the replica's cache, in seconds; 0 turns the cache off.
    feature_cache_s: SecondsOrZero = 30.0
    # Most users in that cache, most items, and most live counters; in the core most counters of each feature.
    feature_cache_entries: Count = 200_000
    # Most bytes of users in the core's cache, of items, and of the live counters of each feature.
    feature_cache_bytes: Count = 512 << 20
    # Threads of the core's batches, and of torch with FBGEMM; 0 takes all cores.
    num_threads: Threads = 1
    # Device of rows and model; "auto" takes a CUDA device if there is one.
    device: Literal["auto", "cpu", "cuda"] = "auto"
    # Store of the rows and of the model: "core" ranks in the core, on the CPU, without torch; "fbgemm" pools rows in FBGEMM and computes in
    # torch, on CUDA or the CPU, and needs features of one dim. "auto" takes the core on the CPU and FBGEMM on CUDA.
    engine: Literal["auto", "core", "fbgemm"] = "auto"
    # Interval of looking for a checkpoint while the replica needs one or follows them, in seconds.
    checkpoint_poll_s: Seconds = 0.5
    # Apply updates only as far as `monolith guard` has judged them good.
    guarded: bool = False
    # Wall-clock seconds without a verdict, while updates wait for one, after which the replica follows all; 0 waits for ever. Updates that
    # were judged and held wait for ever.
    guard_silence_s: SecondsOrZero = 60.0
    # Time for which a replica may lack updates that are in the log, in seconds; above it the service reports NOT_SERVING. 0 turns this off.
    # Neither an idle trainer nor a log that cannot be reached counts: they are the same for all replicas.
    max_behind_s: SecondsOrZero = 30.0
    # Time after the first load at which the service reports SERVING although the replica has not caught up with the log, in seconds.
    max_catch_up_s: SecondsOrZero = 60.0
    # Age of the newest delta, in seconds, above which the service reports NOT_SERVING; 0 turns this off. A trainer that stands still
    # makes all replicas old.
    max_staleness_s: SecondsOrZero = 0.0
    # Time in which the process goes on answering after a stop signal, while its health is NOT_SERVING, in seconds.
    drain_s: SecondsOrZero = 1.0
    # File that gets a line "time_ms age_s rows" for each training step once its rows are used in scores.
    freshness_log: FilePath | None = None
    # File that gets the port once the replica can rank.
    port_file: FilePath | None = None
    security: ServingSecurityConfig = ServingSecurityConfig()

    @model_validator(mode="after")
    def _check_across_settings(self) -> ServingConfig:
        for needs, names, there in (
            ("feature_cache_s above 0", ("feature_cache_entries", "feature_cache_bytes"), self.feature_cache_s > 0),
            ("follow_updates = false", ("channel",), not self.follow_updates),
            ("follow_updates = true", ("freshness_log", "max_behind_s", "max_catch_up_s", "guarded"), self.follow_updates),
            ("guarded = true", ("guard_silence_s",), self.guarded),
            ("front = 'cpp'", ("front_threads",), self.front == "cpp"),
            ("front = 'python'", ("reflection",), self.front == "python"),
            ("follow_updates or follow_checkpoints", ("max_staleness_s",), self.follow_updates or self.follow_checkpoints),
        ):
            for name in names:
                if not there and not self.is_default(name):
                    raise ValueError(f"serving.{name} must come with {needs}, got {getattr(self, name)!r} without")
        if self.engine == "core" and self.device == "cuda":
            raise ValueError("serving.engine must be 'auto' or 'fbgemm' with device = 'cuda', got 'core'")
        if (self.split.share > 0) != bool(self.split.job):
            raise ValueError(f"serving.split.job must come with a split.share above 0, got {self.split.job!r} and {self.split.share}")
        if self.follow_checkpoints and self.follow_updates:
            raise ValueError("serving.follow_checkpoints must come with follow_updates = false, got follow_updates = true")
        if self.max_impression_bytes > self.impression_queue_bytes:
            limit = f"impression_queue_bytes {self.impression_queue_bytes}"
            raise ValueError(f"serving.max_impression_bytes must be <= {limit}, got {self.max_impression_bytes}")
        return self
