"""The models that are compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

TOWER = (256, 128, 64)


@dataclass(frozen=True)
class ModelVariant:
    """One model: `settings` of its section in a job."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    lr: float = 1e-3  # of all that is dense

    def model(self, num_inputs: int, num_steps: int) -> dict[str, Any]:
        """Return the settings of the model."""
        return {"tower": list(TOWER), **self.settings}


# DeepFM first: the others are compared with it.
VARIANTS = (
    ModelVariant("DeepFM"),
    ModelVariant("DLRM", {"kind": "dlrm"}),
    ModelVariant("DCN-V2, 3 full layers, stacked", {"kind": "dcn"}),
    ModelVariant("DCN-V2, 3 layers of rank 32, stacked", {"kind": "dcn", "cross_rank": 32}),
    ModelVariant("DCN-V2, 3 layers of rank 32, parallel", {"kind": "dcn", "cross_rank": 32, "structure": "parallel"}),
    ModelVariant("DCN-V2, 2 layers of rank 32, parallel", {"kind": "dcn", "cross_layers": 2, "cross_rank": 32, "structure": "parallel"}),
)
