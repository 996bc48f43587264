"""The registry of whole segmentation networks: images (B, C, H, W) to logits (B, outputs, H, W)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

from foveal.registry import Registry

_N = TypeVar("_N", bound=Callable[..., nn.Module])
_REGISTRY: Registry[Callable[..., nn.Module]] = Registry("network", "foveal.models.networks")


def register_network(name: str) -> Callable[[_N], _N]:
    """Decorator that makes a network known to `create_network`, and so to `SegmenterConfig.network`.

    What it decorates takes keyword arguments only, one of them `outputs`, the number of logits a pixel; the
    others are plain JSON values.

    Raises:
        ValueError: the name is taken.
    """

    def register(make: _N) -> _N:
        _REGISTRY.add(name, make)
        return make

    return register


def list_networks() -> list[str]:
    """Names of foveal's own networks, sorted."""
    return _REGISTRY.names()


def create_network(name: str, *, outputs: int, **settings: Any) -> nn.Module:
    """Make a network by name.

    Args:
        name: one of `list_networks()`.
        outputs: logits of each pixel.
        **settings: keyword arguments of the network.

    Raises:
        ValueError: the name is not known.
    """
    return _REGISTRY.find(name)(outputs=outputs, **settings)
