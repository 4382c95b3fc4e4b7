"""The seams to the outside: Log (streams) and Kv (features, waiting impressions), and the wire formats they carry."""
