"""The ranking replica: rows and towers kept up to date from the log, candidates ranked over gRPC."""
