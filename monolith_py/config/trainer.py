"""Settings of the online trainer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field

from monolith_py.config.fields import Count, Positive, Settings


class TrainerConfig(Settings):
    """The online trainer."""

    renamed: ClassVar[Mapping[str, str]] = {
        "max_wait_s": "linger_s",
    }

    batch_size: Count = 256
    # Wall-clock wait before a smaller batch is trained.
    linger_s: Annotated[float, Field(ge=0)] = 0.1
    checkpoint_dir: str = Field(min_length=1)
    checkpoint_interval_s: Positive = 60.0
    checkpoints_kept: Count = 3
    # Event-time seconds between sweeps for expired rows.
    evict_interval_s: Positive = 3600.0
    # Threads of the table and of torch; 0 takes all cores.
    num_threads: Annotated[int, Field(ge=0)] = 0
