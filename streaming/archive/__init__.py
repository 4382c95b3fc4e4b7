"""The archiver: copies the topics of a job into Parquet files by event hour."""
