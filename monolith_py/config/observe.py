"""Settings of logging and metrics."""

from __future__ import annotations

from typing import Literal

from monolith_py.config.fields import Port, Settings


class ObserveConfig(Settings):
    """Logging and metrics of every process."""

    # Least level of log lines on standard error.
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    # Port of the joiner's Prometheus metrics; 0 turns them off.
    joiner_port: Port = 0
    # Port of the trainer's Prometheus metrics; 0 turns them off.
    trainer_port: Port = 0
    # Port of the archiver's Prometheus metrics; 0 turns them off.
    archiver_port: Port = 0
    # Port of a replica's Prometheus metrics; 0 turns them off.
    serving_port: Port = 0
    # Port of the Prometheus metrics of `monolith shadow`; 0 turns them off.
    shadow_port: Port = 0
    # Port of the Prometheus metrics of `monolith guard`; 0 turns them off.
    guard_port: Port = 0
