"""Encoders: images in, `Features` out."""

from foveal.encoders.base import Encoder, create_encoder, list_encoders, register_encoder
from foveal.encoders.checkpoints import LoadedCheckpoint, load_official, register_layout
from foveal.encoders.conv_pyramid import ConvPyramid
from foveal.encoders.features import Features

__all__ = [
    "ConvPyramid",
    "Encoder",
    "Features",
    "LoadedCheckpoint",
    "create_encoder",
    "list_encoders",
    "load_official",
    "register_encoder",
    "register_layout",
]
