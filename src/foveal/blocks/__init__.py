"""Layers that more than one encoder uses."""
