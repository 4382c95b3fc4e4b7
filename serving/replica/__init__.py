"""The model that a replica serves: loaded from a checkpoint, kept fresh by deltas."""
