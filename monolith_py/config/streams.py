"""Settings of the log, the key-value store and the joiner."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from monolith_py.config.fields import Count, FilePath, Name, Seconds, SecondsOrZero, Settings, rule_error
from monolith_py.config.security import KvSecurityConfig, LogSecurityConfig

# Host or IPv6 address, with an optional port.
_SERVER = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/@?#\[\]]+)(:(?P<port>[0-9]{1,5}))?")


def _is_server(text: str) -> bool:
    server = _SERVER.fullmatch(text)
    return server is not None and 0 < int(server["port"] or 1) < 65536


def _check_log_url(url: str) -> str:
    servers = url.removeprefix("kafka://").removesuffix("/").split(",")
    if url.startswith("kafka://") and not all(map(_is_server, servers)):
        raise rule_error("be kafka://host:port[,host:port]")
    return url


def _check_kv_url(url: str) -> str:
    if not re.match("rediss?://", url):
        return url
    _, _, address = url.partition("//")[2].rpartition("@")
    server, _, database = address.partition("?")[0].partition("/")
    if not (_is_server(server) and re.fullmatch("[0-9]*", database)):
        raise rule_error("be redis://host:port/db, with a number as db")
    return url


class LogConfig(Settings):
    """The log that holds all topics of a job."""

    # `sqlite:///FOLDER` (relative to the working directory; a fourth slash makes it absolute) or `kafka://host:port[,host:port]`.
    url: Annotated[FilePath, Field(pattern=r"^(sqlite:///.+|kafka://.+)$"), AfterValidator(_check_log_url)]
    # Partitions of the topics of impressions, actions and examples; the other topics have one.
    partitions: Annotated[int, Field(ge=1, le=10_000)] = 1
    # Prefix of the topics' names, for instance "shop.".
    topic_prefix: str = Field(default="", pattern=r"^[A-Za-z0-9._-]*$", max_length=200)
    # Prefix of one model's topics, after topic_prefix, for a second model that learns from the same examples: "wide." gives "wide.updates".
    # The topics of a model are updates, dense_requests, dead_letters, verdicts and shadow_scores.
    model_prefix: str = Field(default="", pattern=r"^[A-Za-z0-9._-]*$", max_length=100)
    # Most seconds that an event time may be ahead of the wall clock. Rank replaces a later one by its clock, joiner and trainer put later
    # events aside, replay leaves them out.
    max_clock_skew_s: SecondsOrZero = 300.0
    security: LogSecurityConfig = LogSecurityConfig()

    @model_validator(mode="after")
    def _check_security(self) -> LogConfig:
        if self.security != LogSecurityConfig() and not self.url.startswith("kafka://"):
            raise ValueError(f"log.security must come with a log.url that begins with kafka://, got {self.url!r}")
        return self


class KvConfig(Settings):
    """The key-value store of stored features, waiting impressions and live counters."""

    # `memory:`, `sqlite:///FILE` (a fourth slash makes it absolute), `redis://host:port/db`, `rediss://host:port/db` or `unix://path`.
    # Without a password: the environment variable MONOLITH_KV_PASSWORD gives it, or the file that MONOLITH_KV_PASSWORD_FILE names.
    url: FilePath
    security: KvSecurityConfig = KvSecurityConfig()

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: str) -> str:
        """Check the form; the error does not repeat the URL, which may hold a password."""
        if re.fullmatch(r"memory:|sqlite:///.+|rediss?://.+|unix://.+", url) is None:
            scheme = url.partition(":")[0]
            raise ValueError(f"kv.url must be memory: or begin with sqlite:///, redis://, rediss:// or unix://, got scheme {scheme[:20]!r}")
        if not url.startswith("sqlite:") and re.search(r"//[^/]*:.*@|[?&](password|username)=", url) is not None:
            raise ValueError("kv.url must hold no password, got one: set the environment variable MONOLITH_KV_PASSWORD")
        return _check_kv_url(url)

    @model_validator(mode="after")
    def _check_security(self) -> KvConfig:
        security = self.security
        if security.username is not None and not re.match("rediss?://|unix://", self.url):
            raise ValueError(f"kv.security.username must come with a Redis as kv.url, got {security.username!r}")
        if security.username is not None and "@" in self.url:
            raise ValueError("kv.security.username must not be set together with a user in kv.url, got both")
        for name in ("ca_file", "certificate_file"):
            if getattr(security, name) is not None and not self.url.startswith("rediss://"):
                raise ValueError(f"kv.security.{name} must come with a kv.url that begins with rediss://, got another")
        return self


def _check_value(value: int | str) -> int | str:
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        raise rule_error("be within int64")
    if isinstance(value, str) and not 1 <= len(value) <= 512:
        raise rule_error("have 1 to 512 characters")
    return value


SampleRate = Annotated[float, Field(ge=1e-6, le=1)]


class NegativeRateConfig(Settings):
    """Share of the negatives kept of the candidates whose bag of a sparse feature holds a value: `[[joiner.negative_rates]]`."""

    # Name of a sparse feature of the job.
    feature: Name
    # A fid, or a text that `monolith_py.data.ids.fid_from_text` hashes to one.
    value: Annotated[int | str, AfterValidator(_check_value)]
    # Share kept, as `joiner.negative_rate`.
    rate: SampleRate


class JoinerConfig(Settings):
    """The joiner of impressions and actions to examples. Times are event time unless a comment says wall clock."""

    renamed: ClassVar[Mapping[str, str]] = {
        "late_window_s": "allowed_lateness_s",
        "out_of_order_s": "max_out_of_orderness_s",
        "idle_s": "idle_timeout_s",
        "closing_actions": "terminal_actions",
    }

    # Time that an impression waits for its actions, in seconds. One that comes later than this behind its topic is refused.
    window_s: Seconds = 600.0
    # Unit and time of emission: each candidate once its labels are known, all candidates of a request once those of the last are, or all of
    # them when the window closes. "candidate" learns a click on a list up to `window_s` sooner, but before the list's negatives, so that
    # predictions come out too high. "window" learns the requests of a user in their order: with one candidate a request and a window of 1 h
    # it gains 0.013 AUC, with one of 10 min nothing (tests/evidence/NEGATIVES.md).
    emit: Literal["candidate", "request", "window"] = "request"
    # Kinds of action after which every label of their candidate is known: it does not wait for the window to close.
    terminal_actions: tuple[str, ...] = ()
    # Kinds of action after which every label of their request is known. Their item need not be a candidate.
    request_terminal_actions: tuple[str, ...] = ()
    # Effect of an action after its impression was emitted: a RETRACTION example, or none.
    late: Literal["retract", "drop"] = "retract"
    # Time after the window that an emitted impression is kept for late actions, in seconds.
    allowed_lateness_s: SecondsOrZero = 3600.0
    # Share of the examples without a positive label that is kept; the trainer weights their loss by its inverse.
    negative_rate: SampleRate = 1.0
    # Shares in place of `negative_rate` by the value of a feature, such as the surface or the country. If a candidate has several of the
    # values, the first one in the order of the file decides.
    negative_rates: Annotated[tuple[NegativeRateConfig, ...], Field(max_length=10_000)] = ()
    # Most seconds by which event times may be out of order, between topics and within one.
    max_out_of_orderness_s: SecondsOrZero = 5.0
    # Number of the last 8 records of a topic, in each partition, that must have reached an event time before it counts as passed. Fewer
    # clocks that are ahead close no window; windows close as many records later, or once both topics are silent for `idle_timeout_s`.
    agreeing_records: Annotated[int, Field(ge=1, le=8)] = 5
    # Wall-clock seconds without a new record, after which the watermark advances with the wall clock, from the newest record on.
    idle_timeout_s: Seconds = 5.0
    # Most records in one read of a topic's partition, and in one commit.
    max_records: Count = 2000
    # Most examples in a record of topic `examples`.
    examples_per_record: Annotated[int, Field(ge=1, le=4096)] = 256
    # Bytes of memory for the requests that wait, over all partitions of a topic, an equal part for each. Above half of it closed requests
    # keep no features, above it no new ones do; they are read again from `impressions` when an example needs them.
    max_memory_bytes: Annotated[int, Field(ge=0)] = 4 << 30
    # Wall-clock seconds after which a step with fewer examples is committed. One with an example is committed as soon as this time has
    # passed since the last one with examples, so after a pause an example does not wait.
    linger_s: SecondsOrZero = 0.05
    # Wall-clock seconds without a sign of life, after which the other joiners of the job take the partitions of one. It gives six signs in
    # this time, between its calls of the log and the store: one that hangs in a call for longer loses its partitions, and nothing else.
    session_timeout_s: Annotated[float, Field(ge=0.1, le=3600)] = 6.0

    @model_validator(mode="after")
    def _check_emit(self) -> JoinerConfig:
        for name in ("terminal_actions", "request_terminal_actions"):
            if self.emit == "window" and getattr(self, name):
                raise ValueError(f'joiner.{name} must be empty with emit = "window", got {list(getattr(self, name))}')
        return self
