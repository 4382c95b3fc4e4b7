"""Stored features and live counters of users and items, read from Kv and packed in the schema's order."""
