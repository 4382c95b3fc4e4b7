"""The towers: what is dense of a model."""

from monolith_py.tower.tower import Tower

__all__ = ["Tower"]
