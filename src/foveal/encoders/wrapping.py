"""Encoders around another one: the inner one by name or as it is, noted so that it can be made again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foveal.encoders.base import Encoder, create_encoder


def inner_encoder(
    wrapper: Encoder, encoder: str | Encoder, settings: Mapping[str, Any] | None, in_channels: int
) -> Encoder:
    """The encoder inside a wrapper; one that is made already is noted in the wrapper's settings by its own.

    Args:
        wrapper: has settings `encoder`, `encoder_settings` and `in_channels`.
        encoder: a name as in `create_encoder`, or an encoder.
        settings: of the encoder that is named.
        in_channels: of the encoder that is named.

    Raises:
        ValueError: an encoder that is made already, and settings for it.
    """
    if isinstance(encoder, str):
        return create_encoder(encoder, in_channels=in_channels, **(settings or {}))
    if settings is not None:
        raise ValueError("encoder_settings with an encoder that is made already; give its name instead")
    noted = {name: value for name, value in encoder.settings.items() if name != "in_channels"}
    wrapper.settings |= {
        "encoder": encoder.name,
        "encoder_settings": noted,
        "in_channels": encoder.in_channels,
    }
    return encoder
