"""Ranking models: batches, feature interaction, DeepFM and DLRM."""

from monolith_py.model.ranking import RankModel, build_model

__all__ = ["RankModel", "build_model"]
