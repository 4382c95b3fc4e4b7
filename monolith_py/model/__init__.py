"""Ranking models: batch, feature interaction, towers and heads."""

from monolith_py.model.ranking import RankModel, build_model

__all__ = ["RankModel", "build_model"]
