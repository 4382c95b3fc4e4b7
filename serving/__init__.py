"""The ranking replica."""
