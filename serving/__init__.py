"""Ranking replica: a model kept up to date from the log, and a gRPC service that ranks candidates with it."""
