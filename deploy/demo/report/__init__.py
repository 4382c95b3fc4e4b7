"""Measures, baselines, findings and the report of a run."""
