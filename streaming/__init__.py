"""Processes on the streams: joiner, trainer, replay."""
