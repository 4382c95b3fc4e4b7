"""Settings of the log, the key-value store and the joiner."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from monolith_py.config.fields import Count, Positive, Settings


class LogConfig(Settings):
    """The log that holds all topics of a job."""

    # `sqlite:///FOLDER` (relative to the working directory; a fourth slash makes it absolute) or `kafka://host:port[,host:port]`.
    url: str = Field(pattern=r"^(sqlite:///.+|kafka://.+)$")
    # Partitions of the topics of impressions, actions and examples; the other topics have one.
    partitions: Count = 1
    # Prefix of the topics' names, for instance "shop.".
    topic_prefix: str = Field(default="", pattern=r"^[A-Za-z0-9._-]*$")


class KvConfig(Settings):
    """The key-value store of stored features, waiting impressions and live counters."""

    # `memory:`, `sqlite:///FILE` (a fourth slash makes it absolute), `redis://host:port/db`, `rediss://host:port/db` or `unix://path`.
    url: str = Field(pattern=r"^(memory:|sqlite:///.+|rediss?://.+|unix://.+)$")


class JoinerConfig(Settings):
    """The joiner of impressions and actions to examples. Times are event time unless a comment says wall clock."""

    renamed: ClassVar[Mapping[str, str]] = {
        "late_window_s": "allowed_lateness_s",
        "out_of_order_s": "max_out_of_orderness_s",
        "idle_s": "idle_timeout_s",
        "closing_actions": "terminal_actions",
    }

    # Time that an impression waits for its actions, in seconds.
    window_s: Positive = 600.0
    # Unit of emission: each candidate once its labels are known, or all candidates of a request once those of the last are. "candidate"
    # learns a click on a list up to `window_s` sooner, but before the list's negatives: predictions come out too high.
    emit: Literal["candidate", "request"] = "request"
    # Kinds of action after which every label of their candidate is known: it does not wait for the window to close.
    terminal_actions: tuple[str, ...] = ()
    # Kinds of action after which every label of their request is known. Their item need not be a candidate.
    request_terminal_actions: tuple[str, ...] = ()
    # Effect of an action after its impression was emitted: a RETRACTION example, or none.
    late: Literal["retract", "drop"] = "retract"
    # Time after the window that an emitted impression is kept for late actions, in seconds.
    allowed_lateness_s: Annotated[float, Field(ge=0)] = 3600.0
    # Share of the examples without a positive label that is kept; the trainer weights their loss by its inverse.
    negative_rate: Annotated[float, Field(gt=0, le=1)] = 1.0
    # Most seconds by which event times may be out of order, between topics and within one.
    max_out_of_orderness_s: Annotated[float, Field(ge=0)] = 5.0
    # Wall-clock seconds without a new record, after which the watermark advances with the wall clock.
    idle_timeout_s: Positive = 5.0
    # Most records in one read of a topic's partition, and in one commit.
    max_records: Count = 2000
    # Most examples in a record of topic `examples`.
    examples_per_record: Annotated[int, Field(ge=1, le=4096)] = 256
    # Wall-clock seconds after which a record with fewer examples is written.
    linger_s: Annotated[float, Field(ge=0)] = 0.1
