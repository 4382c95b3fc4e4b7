"""Sync of the dense parameters: state, updates, topologies, requests for a full state."""
