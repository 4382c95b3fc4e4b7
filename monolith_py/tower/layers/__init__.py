"""Layers of a tower: sparse linear layers, their storage and their packed forms."""
