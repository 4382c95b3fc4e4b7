"""Real-time recommendation training: collisionless embedding tables, online training, parameter sync."""

from monolith_py.process import set_num_threads

__version__ = "0.1.0"

__all__ = ["set_num_threads"]
