"""The load: tables of users, items, impressions and actions into the store and the log of a job."""

from monolith_streaming.load.load import LoadOptions, LoadResult, Tables, load_tables

__all__ = ["LoadOptions", "LoadResult", "Tables", "load_tables"]
