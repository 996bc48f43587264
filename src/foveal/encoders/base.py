"""The encoder contract and its registry: images in, `Features` out."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

from torch import Tensor, nn

from foveal.encoders.features import Features


class Encoder(nn.Module):
    """Images (B, C, H, W) to `Features`; subclasses set the attributes below.

    Attributes:
        dim: length D of a patch token and of the pooled vector.
        patch_size: input pixels a patch token covers along each axis.
        in_channels: channels of the input images.
        pyramid_channels: channels of each pyramid level, finest first; empty where there is none.
        pyramid_strides: input pixels a cell of each pyramid level covers along each axis.
    """

    dim: int
    patch_size: int
    in_channels: int
    pyramid_channels: tuple[int, ...] = ()
    pyramid_strides: tuple[int, ...] = ()

    def forward(self, images: Tensor) -> Features:
        """Encode a batch of images."""
        raise TypeError(f"{type(self).__name__} does not define forward(images) -> Features")


_E = TypeVar("_E", bound=type[Encoder])
_REGISTRY: dict[str, Callable[..., Encoder]] = {}


def register_encoder(name: str) -> Callable[[_E], _E]:
    """Class decorator that makes an encoder known to `create_encoder` under `name`."""

    def register(cls: _E) -> _E:
        if name in _REGISTRY:
            raise ValueError(f"an encoder named {name!r} is registered already")
        _REGISTRY[name] = cls
        return cls

    return register


@cache
def _load_families() -> None:
    """Import every file of this room, each of which registers its encoders; bridges are left alone."""
    import foveal.encoders

    for module in pkgutil.iter_modules(foveal.encoders.__path__):
        if not module.name.endswith("_bridge"):
            importlib.import_module(f"foveal.encoders.{module.name}")


def list_encoders() -> list[str]:
    """Names of foveal's own encoders, sorted; any timm model is one too, as `timm/NAME`."""
    _load_families()
    return sorted(_REGISTRY)


def create_encoder(name: str, **settings: Any) -> Encoder:
    """Make an encoder by name.

    Args:
        name: one of `list_encoders()`, or `timm/NAME` for any model that timm can take features from.
        **settings: keyword arguments of the encoder's constructor.

    Raises:
        ValueError: the name is not known; the message suggests the nearest one.
    """
    if name.startswith("timm/"):
        from foveal.encoders.timm_bridge import TimmEncoder

        return TimmEncoder(name.removeprefix("timm/"), **settings)
    _load_families()
    if name not in _REGISTRY:
        near = difflib.get_close_matches(name, _REGISTRY, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown encoder {name!r}{hint} allowed: {', '.join(list_encoders())} or timm/NAME")
    return _REGISTRY[name](**settings)
