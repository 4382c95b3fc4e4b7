"""Inspection of checkpoints and table files: report, and its view in a terminal."""

from monolith_py.training.inspection.report import (
    Bin,
    FidReport,
    Histograms,
    Inspection,
    SliceValues,
    TableReport,
    inspect_checkpoint,
    iso,
)

__all__ = [
    "Bin",
    "FidReport",
    "Histograms",
    "Inspection",
    "SliceValues",
    "TableReport",
    "inspect_checkpoint",
    "iso",
]
