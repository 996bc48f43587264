"""Saving and loading models: a folder of `config.json`, `model.safetensors` and a model card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from foveal.files import file_sha256, write_atomically
from foveal.settings import Settings

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"


def weights_hash(folder: Path) -> str:
    """SHA-256 (hex) of the weights file in a model folder."""
    return file_sha256(Path(folder) / WEIGHTS)


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
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        head = {"foveal_model": type(self).__name__, **self.config.model_dump(mode="json")}
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        write_atomically(folder / WEIGHTS, save(state, metadata={"format": "pt"}))
        write_atomically(folder / CONFIG, json.dumps(head, indent=2) + "\n")
        if card:
            write_atomically(folder / CARD, card)
        return folder

    @classmethod
    def from_pretrained(cls, folder_or_hub_id: str | Path, *, revision: str | None = None) -> Self:
        """Load a model in evaluation mode from a folder, or from a Hugging Face hub repository.

        Raises:
            FileNotFoundError: a file of the model is missing.
            ValueError: the folder holds another kind of model, or weights that do not fit its settings.
        """
        folder = Path(folder_or_hub_id)
        if not folder.is_dir():
            folder = _download(str(folder_or_hub_id), revision)
        for name in (CONFIG, WEIGHTS):
            if not (folder / name).is_file():
                raise FileNotFoundError(f"{folder} is no saved model: it has no {name}")
        config = read_config(folder)
        kind = config.pop("foveal_model", None)
        if kind != cls.__name__:
            raise ValueError(f"{folder} holds a {kind or 'model of an unknown kind'}, not a {cls.__name__}")
        try:
            model = cls(cls.Config(**config))
            model.load_state_dict(load_file(folder / WEIGHTS))
        except (ValidationError, SafetensorError, RuntimeError) as error:
            raise ValueError(f"{folder}: the saved model cannot be loaded: {error}") from error
        return model.eval()


def read_config(folder: Path) -> dict[str, Any]:
    """The contents of a model folder's `config.json`.

    Raises:
        ValueError: the file is not a JSON object.
    """
    try:
        config = json.loads((Path(folder) / CONFIG).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{Path(folder) / CONFIG} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{Path(folder) / CONFIG} holds a {type(config).__name__}, an object is wanted")
    return config


def _download(hub_id: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=[CONFIG, WEIGHTS, CARD]))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise FileNotFoundError(
            f"{hub_id!r} is neither a folder here nor a hub repository that can be reached: {error}"
        ) from error
