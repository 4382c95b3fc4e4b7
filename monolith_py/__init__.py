"""Real-time recommendation training: collisionless embedding tables, online training, parameter sync."""

__version__ = "0.1.0"
