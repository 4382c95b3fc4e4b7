"""The ranking replica: rows and dense parameters kept up to date from the log, candidates ranked over gRPC."""
