"""Encoders: images in, `Features` out."""
