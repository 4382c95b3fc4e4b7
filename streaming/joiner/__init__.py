"""The joiner: turns impressions and actions into examples."""
