"""The joiner: impressions and actions become examples."""
