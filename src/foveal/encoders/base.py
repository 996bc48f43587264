"""The encoder contract and its registry: images in, `Features` out."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from torch import Tensor, nn

from foveal.encoders.features import Features
from foveal.encoders.preprocessing import EncoderPreprocess
from foveal.encoders.saving import load_weights, open_model, write_model
from foveal.registry import Registry


class Encoder(nn.Module):
    """Images (B, C, H, W) to `Features`; subclasses set the attributes below.

    Attributes:
        dim: length D of a patch token and of the pooled vector.
        patch_size: input pixels a patch token covers along each axis.
        in_channels: channels of the input images.
        pyramid_channels: channels of each pyramid level, finest first; empty where there is none.
        pyramid_strides: input pixels a cell of each pyramid level covers along each axis.
        preprocess: size, mean and std of the images that its weights were trained on, where it knows them.
        settings: the keyword arguments it was made with; `create_encoder(name, **settings)` makes it again.
    """

    registered_name: ClassVar[str] = ""
    preprocess: EncoderPreprocess | None = None
    settings: dict[str, Any]
    dim: int
    patch_size: int
    in_channels: int
    pyramid_channels: tuple[int, ...] = ()
    pyramid_strides: tuple[int, ...] = ()

    def __new__(cls, *values: Any, **settings: Any) -> Self:
        """Make an encoder and note its settings."""
        encoder = super().__new__(cls)
        # Unpickling and copying come without settings and bring the noted ones themselves.
        given = inspect.signature(cls.__init__).bind_partial(encoder, *values, **settings).arguments
        named = dict(list(given.items())[1:])
        for parameter in inspect.signature(cls.__init__).parameters.values():
            if parameter.kind is parameter.VAR_KEYWORD:
                named |= named.pop(parameter.name, {})
        object.__setattr__(encoder, "settings", named)
        return encoder

    @property
    def name(self) -> str:
        """The name by which `create_encoder` makes this encoder; empty where it is not registered."""
        return type(self).registered_name

    def official_layouts(self) -> dict[str, Any]:
        """Layouts of official checkpoints by name, for `load_official`; see `register_layout`."""
        from foveal.encoders.checkpoints import layouts_of

        return dict(layouts_of(self.name))

    def save_pretrained(self, folder: str | Path, *, card: str = "") -> Path:
        """Write the encoder to a folder: `config.json`, `model.safetensors`, and a model card where given.

        Args:
            folder: made where missing; each file appears whole or not at all.
            card: text of the model card, Markdown; an existing card is kept where this is empty.

        Raises:
            ValueError: the encoder is not registered, or its settings are no JSON values.
        """
        parts = [part for part in self.modules() if isinstance(part, Encoder)]
        if nameless := [type(part).__name__ for part in parts if not part.name]:
            raise ValueError(
                f"{type(self).__name__} cannot be saved: {nameless[0]} has no registered name; see "
                "register_encoder"
            )
        config = {"foveal_model": "Encoder", "encoder": self.name, "encoder_settings": self.settings}
        return write_model(folder, self, config, card=card)

    @classmethod
    def from_pretrained(cls, folder_or_hub_id: str | Path, *, revision: str | None = None) -> Self:
        """Load an encoder in evaluation mode from a folder, or from a Hugging Face hub repository.

        Raises:
            FileNotFoundError: a file of the encoder is missing.
            ValueError: the folder holds no encoder, another class of it, or weights that do not fit.
        """
        folder, config = open_model(folder_or_hub_id, revision=revision)
        if config.get("foveal_model") != "Encoder":
            kind = config.get("foveal_model") or "model of an unknown kind"
            raise ValueError(f"{folder} holds a {kind}, not an Encoder")
        encoder = create_encoder(config["encoder"], **config["encoder_settings"])
        if not isinstance(encoder, cls):
            raise ValueError(f"{folder} holds a {type(encoder).__name__}, not a {cls.__name__}")
        load_weights(encoder, folder, config.get("changes", ()))
        return encoder.eval()

    def forward(self, images: Tensor) -> Features:
        """Encode a batch of images."""
        raise TypeError(f"{type(self).__name__} does not define forward(images) -> Features")


_E = TypeVar("_E", bound=type[Encoder])
_REGISTRY: Registry[type[Encoder]] = Registry("encoder", "foveal.encoders", left_out="_bridge")


def register_encoder(name: str) -> Callable[[_E], _E]:
    """Class decorator that makes an encoder known to `create_encoder` under `name`."""

    def register(cls: _E) -> _E:
        _REGISTRY.add(name, cls)
        cls.registered_name = name
        return cls

    return register


def list_encoders() -> list[str]:
    """Names of foveal's own encoders, sorted; any timm model is one too, as `timm/NAME`."""
    return _REGISTRY.names()


def encoder_class(name: str) -> type[Encoder]:
    """The class that is registered under a name.

    Raises:
        ValueError: there is none; the message suggests the nearest name.
    """
    return _REGISTRY.find(name, others=("timm/NAME", "transformers/NAME"))


def create_encoder(name: str, **settings: Any) -> Encoder:
    """Make an encoder by name.

    Args:
        name: one of `list_encoders()`, `timm/NAME` for any timm model, or `transformers/FOLDER` for any
            vision model of transformers.
        **settings: keyword arguments of the encoder's constructor.

    Raises:
        ValueError: the name is not known; the message suggests the nearest one.
    """
    if name.startswith("timm/"):
        from foveal.encoders.timm_bridge import TimmEncoder

        return TimmEncoder(name.removeprefix("timm/"), **settings)
    if name.startswith("transformers/"):
        from foveal.encoders.transformers_bridge import TransformersEncoder

        return TransformersEncoder(name.removeprefix("transformers/"), **settings)
    return encoder_class(name)(**settings)
