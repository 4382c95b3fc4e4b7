"""The processes on the stream side: joiner, trainer, replay."""
