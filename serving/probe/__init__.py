"""Probe of freshness: from a click to the served score."""
