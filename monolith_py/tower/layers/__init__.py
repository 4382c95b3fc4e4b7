"""Layers of a tower: sparse linear layers and their forms for the core, serving and GPUs."""
