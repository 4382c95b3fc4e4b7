"""Metrics and logging of every process."""

from monolith_py.observe.metrics import serve_metrics, set_up_logging

__all__ = ["serve_metrics", "set_up_logging"]
