"""Model of a replica: loaded from a checkpoint, kept up to date by deltas."""
