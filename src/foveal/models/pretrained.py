"""Saving and loading models: a folder of `config.json`, `model.safetensors` and a model card."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import ValidationError
from torch import nn

from foveal.encoders.saving import (
    CARD,
    CONFIG,
    WEIGHTS,
    load_weights,
    open_model,
    read_config,
    weights_hash,
    write_model,
)
from foveal.settings import Settings

__all__ = ["CARD", "CONFIG", "WEIGHTS", "PretrainedModel", "read_config", "weights_hash"]


class PretrainedModel(nn.Module):
    """A module made from a `config` and saved with it; nothing is ever unpickled.

    Subclasses set `Config` to their settings model and take an instance of it as their only argument.
    """

    Config: ClassVar[type[Settings]]
    config: Any

    def save_pretrained(self, folder: str | Path, *, card: str = "") -> Path:
        """Write the model to `folder` (made where missing); each file appears whole or not at all.

        Args:
            folder: where to write.
            card: text of the model card, Markdown; an existing card is kept where this is empty.
        """
        head = {"foveal_model": type(self).__name__, **self.config.model_dump(mode="json")}
        return write_model(folder, self, head, card=card)

    @classmethod
    def from_pretrained(cls, folder_or_hub_id: str | Path, *, revision: str | None = None) -> Self:
        """Load a model in evaluation mode from a folder, or from a Hugging Face hub repository.

        Raises:
            FileNotFoundError: a file of the model is missing.
            ValueError: the folder holds another kind of model, or weights that do not fit its settings.
        """
        folder, config = open_model(folder_or_hub_id, revision=revision)
        kind, changes = config.pop("foveal_model", None), config.pop("changes", ())
        if kind != cls.__name__:
            raise ValueError(f"{folder} holds a {kind or 'model of an unknown kind'}, not a {cls.__name__}")
        try:
            model = cls(cls.Config(**config))
        except (ValidationError, RuntimeError) as error:
            raise ValueError(f"{folder}: the saved model cannot be loaded: {error}") from error
        load_weights(model, folder, changes)
        return model.eval()
