"""Ranking models: batches, feature interaction, DeepFM and DLRM."""

from typing import TYPE_CHECKING

from monolith_py.lazy import lazy_exports

if TYPE_CHECKING:
    from monolith_py.model.ranking import RankModel, build_model
else:
    __getattr__ = lazy_exports(
        __name__,
        {
            "RankModel": "monolith_py.model.ranking",
            "build_model": "monolith_py.model.ranking",
        },
    )

__all__ = ["RankModel", "build_model"]
