"""Settings of the seams and of the joiner."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from monolith_py.config.fields import Count, Positive, Settings


class LogConfig(Settings):
    """Where the streams live: `sqlite:///path/log.db` or `kafka://host:port[,host:port]`."""

    url: str = Field(pattern=r"^(sqlite:///.+|kafka://.+)$")
    partitions: Count = 1
    topic_prefix: str = Field(default="", pattern=r"^[A-Za-z0-9._-]*$")


class KvConfig(Settings):
    """Where features and waiting impressions live: `memory:`, `sqlite:///path/kv.db` or `redis://host:port/db`."""

    url: str = Field(pattern=r"^(memory:|sqlite:///.+|rediss?://.+|unix://.+)$")


class JoinerConfig(Settings):
    """How impressions and actions become examples. All times are event time."""

    renamed: ClassVar[Mapping[str, str]] = {
        "late_window_s": "allowed_lateness_s",
        "out_of_order_s": "max_out_of_orderness_s",
        "idle_s": "idle_timeout_s",
        "closing_actions": "terminal_actions",
    }

    # An impression waits this long for its actions.
    window_s: Positive = 600.0
    # Kinds of action that end the wait at once: every label is known then.
    terminal_actions: tuple[str, ...] = ()
    # What an action does that comes after its impression was emitted.
    late: Literal["retract", "drop"] = "retract"
    # How long after the window an emitted impression is remembered for late actions.
    allowed_lateness_s: Annotated[float, Field(ge=0)] = 3600.0
    # Share of the examples without any positive label that is kept; the trainer corrects the logit for it.
    negative_rate: Annotated[float, Field(gt=0, le=1)] = 1.0
    # How far event times may run out of order between the topics and within them.
    max_out_of_orderness_s: Annotated[float, Field(ge=0)] = 5.0
    # With no new record for this long (wall clock), the watermark moves on by the wall clock.
    idle_timeout_s: Positive = 5.0
    max_records: Count = 2000
    examples_per_record: Annotated[int, Field(ge=1, le=4096)] = 256
    # Wall-clock wait before a record with fewer examples is written.
    linger_s: Annotated[float, Field(ge=0)] = 0.1
