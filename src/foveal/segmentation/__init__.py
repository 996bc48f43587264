"""Soft labels, decoders at work and tiled inference."""
