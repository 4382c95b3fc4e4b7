"""Metrics and logging of the processes."""

from monolith_py.observe.logging import set_up_logging
from monolith_py.observe.metrics import serve_metrics

__all__ = ["serve_metrics", "set_up_logging"]
