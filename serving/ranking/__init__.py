"""Ranking: a request becomes scores and an impression."""
