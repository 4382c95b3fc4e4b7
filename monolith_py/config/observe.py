"""Settings of logging and metrics."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from monolith_py.config.fields import Settings


class ObserveConfig(Settings):
    """Logging and metrics of every process."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    # Prometheus port of each process; 0 serves no metrics.
    joiner_port: Annotated[int, Field(ge=0, le=65535)] = 0
    trainer_port: Annotated[int, Field(ge=0, le=65535)] = 0
    serving_port: Annotated[int, Field(ge=0, le=65535)] = 0
