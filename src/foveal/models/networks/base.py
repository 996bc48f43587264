"""The registry of whole segmentation networks: images (B, C, H, W) to logits (B, outputs, H, W)."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

from torch import nn

from foveal.settings import unknown_name

_N = TypeVar("_N", bound=Callable[..., nn.Module])
_REGISTRY: dict[str, Callable[..., nn.Module]] = {}


def register_network(name: str) -> Callable[[_N], _N]:
    """Decorator that makes a network known to `create_network`, and so to `SegmenterConfig.network`.

    What it decorates takes keyword arguments only, one of them `outputs`, the number of logits a pixel; the
    others are plain JSON values.

    Raises:
        ValueError: the name is taken.
    """

    def register(make: _N) -> _N:
        if name in _REGISTRY:
            raise ValueError(f"a network named {name!r} is registered already")
        _REGISTRY[name] = make
        return make

    return register


@cache
def _load_all() -> None:
    """Import every file of this package, each of which registers its networks."""
    import foveal.models.networks as package

    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")


def list_networks() -> list[str]:
    """Names of foveal's own networks, sorted."""
    _load_all()
    return sorted(_REGISTRY)


def create_network(name: str, *, outputs: int, **settings: Any) -> nn.Module:
    """Make a network by name.

    Args:
        name: one of `list_networks()`.
        outputs: logits of each pixel.
        **settings: keyword arguments of the network.

    Raises:
        ValueError: the name is not known.
    """
    if name not in list_networks():
        raise ValueError(unknown_name("network", name, list_networks()))
    return _REGISTRY[name](outputs=outputs, **settings)
