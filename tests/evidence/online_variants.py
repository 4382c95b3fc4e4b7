"""Variants of a job that the evidence on online learning compares."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from online_streams import OnlineStream

from monolith_py.config import JoinerConfig
from monolith_streaming.backtest import DAILY, FROZEN, HOURLY, LIVE, Arm

SINGLE = ("kuairand", "obd")
STREAMS = ("kuairand", "mind", "obd", "generated")
# Longest slice: within it all requests are scored, then all examples that became known are learnt. Streams of single candidates have 6 to
# 10 requests a minute; a step for each second of them takes minutes.
SLICE_S = {"kuairand": 60.0, "mind": 5.0, "obd": 60.0, "generated": 5.0}
# Features with live counters.
COUNTER_KEYS = {
    "kuairand": ("user_id", "video_id", "author_id", "tab"),
    "mind": ("item_id", "first_day"),
    "obd": ("user_id", "item_id"),
    "generated": ("user_id", "item_id", "topic"),
}
# A window that closes before many actions arrive, in seconds; no terminal action.
SHORT_WINDOW_S = {"kuairand": 60.0, "mind": 20.0, "obd": 20.0, "generated": 20.0}
NEGATIVE_RATE = 0.25


@dataclass(frozen=True)
class OnlineVariant:
    """Settings on top of those of the stream, and the arms that are scored."""

    name: str
    label: str
    sections: dict[str, Any] = field(default_factory=dict, hash=False)
    arms: tuple[Arm, ...] = (LIVE, FROZEN)
    batches: Literal["as_joined", "even"] = "as_joined"
    counters: bool = False

    def sections_of(self, stream: OnlineStream) -> dict[str, Any]:
        """Return the settings for `stream`."""
        if self.name == "late":
            return {"joiner": {"window_s": SHORT_WINDOW_S[stream.name], "terminal_actions": ()}}
        if self.name == "no_user":
            features = tuple(one for one in stream.settings["features"] if one["name"] != "user_id")
            return {**self.sections, "features": features}
        return self.sections


_DEFAULT_EMIT = JoinerConfig().emit
_OTHER_EMIT = "candidate" if _DEFAULT_EMIT == "request" else "request"
DEFAULT = OnlineVariant("default", f'defaults (joiner.emit = "{_DEFAULT_EMIT}")', arms=(LIVE, HOURLY, DAILY, FROZEN))
EVEN = OnlineVariant("even", "the same examples in even batches", arms=(LIVE,), batches="even")
OTHER = OnlineVariant("other", f'joiner.emit = "{_OTHER_EMIT}"', {"joiner": {"emit": _OTHER_EMIT}})
# The variant of each value of joiner.emit.
BY_EMIT = {_DEFAULT_EMIT: DEFAULT, _OTHER_EMIT: OTHER}
COUNTERS = OnlineVariant("counters", "live counters as dense features", counters=True)
SAMPLED = OnlineVariant("sampled", f"negative_rate {NEGATIVE_RATE}", {"joiner": {"negative_rate": NEGATIVE_RATE}}, arms=(LIVE,))
NO_USER = OnlineVariant("no_user", 'joiner.emit = "candidate", without user_id', {"joiner": {"emit": "candidate"}}, arms=(LIVE,))
LATE = OnlineVariant("late", "short window, late positives retract", arms=(LIVE,))
CLAIMS = (DEFAULT, EVEN, OTHER, NO_USER, COUNTERS, SAMPLED, LATE)
# Arms of the variants and prefixes of the controls whose differences have an interval over requests.
RESAMPLED = (("default", "live"), ("default", "frozen"), ("even", "live"), ("other", "live"))


# Changes of a default, tried on fewer seeds.
RECIPES = (
    OnlineVariant(
        "rows_fixed",
        "rows: adagrad, lr 0.02 and accumulator 0.01 for any number of features",
        {"optimizer": {"sparse": {"kind": "adagrad", "lr": 0.02, "initial_accumulator": 0.01}}},
    ),
    OnlineVariant(
        "rows_accumulator", "rows: accumulator 0.01", {"optimizer": {"sparse": {"kind": "adagrad", "initial_accumulator": 0.01}}}
    ),
    OnlineVariant("rows_rowwise", "rows: rowwise_adagrad", {"optimizer": {"sparse": {"kind": "rowwise_adagrad"}}}),
    OnlineVariant("dense_fast", "dense lr 0.003", {"optimizer": {"dense": {"lr": 0.003}}}),
)


def differs(variant: OnlineVariant, stream_name: str) -> bool:
    """Return whether the variant is of use on this stream: requests of one candidate are emitted alike."""
    return not (variant.name in (OTHER.name, NO_USER.name) and stream_name in SINGLE)
