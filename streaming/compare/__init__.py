"""Comparison of served and shadow models on the labels of a log: `monolith compare`."""

from monolith_streaming.compare.arms import ArmScores, Comparison, read_comparison
from monolith_streaming.compare.figures import ArmFigures, Difference, Estimate, compare_arms

__all__ = ["ArmFigures", "ArmScores", "Comparison", "Difference", "Estimate", "compare_arms", "read_comparison"]
