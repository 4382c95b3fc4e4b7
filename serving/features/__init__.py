"""Features of users, items and requests: read from Kv, packed, put into the schema's order."""
