"""Settings of the processes that compare and guard versions of a model."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from monolith_py.config.fields import Count, NotNegative, Seconds, Settings


class ShadowConfig(Settings):
    """Shadow process: it scores served requests again with this job's model and answers nobody."""

    # Share of the requests that are scored, chosen by a hash of the request id.
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    # Most wall-clock seconds from the append of an impression to its scores; later ones are dropped, as the model may know their labels.
    max_lag_s: Seconds = 1.0


class SplitConfig(Settings):
    """Second model in a replica, which answers a share of the users."""

    # Job file of the second model: on the same log, with log.model_prefix and serving.arm of its own.
    job: str = ""
    # Share of the users, by a hash of the user id; 0 turns the split off.
    share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    # Key of the hash: with another one the share has other users.
    salt: Annotated[str, Field(min_length=1, max_length=64)] = "split"


class GuardConfig(Settings):
    """Guard: it applies each publication before the replicas do, and holds those that make the model worse on recent examples."""

    # Recent examples on which versions are compared.
    examples: Annotated[int, Field(ge=100, le=1_000_000)] = 4096
    # Wall-clock seconds that these examples cover, once there are so many: the oldest give way to new ones at this pace.
    window_s: Seconds = 600.0
    # Fewest positives among them for a judgement; with fewer, every version passes.
    min_positives: Count = 50
    # Rise of the normalised entropy over that of the reference, as a share of it, above which a version is held;
    # of a regression, of the squared error on its scale.
    max_ne_rise: NotNegative = 0.05
    # Change of the calibration away from 1, as a ratio less 1, above which a version is held: 0.25 holds 1.25 and 0.8.
    max_calibration_change: NotNegative = 0.25
