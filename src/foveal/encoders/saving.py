"""A saved model is a folder of `config.json`, `model.safetensors` and a model card; nothing is unpickled."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save
from torch import nn

from foveal.blocks.changes import Change, change_again, changes_of
from foveal.files import file_sha256, write_atomically
from foveal.sparse_files import read_tensors

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"


def weights_hash(folder: Path) -> str:
    """SHA-256 (hex) of the weights file in a model folder."""
    return file_sha256(Path(folder) / WEIGHTS)


def write_model(folder: str | Path, module: nn.Module, config: dict[str, Any], *, card: str = "") -> Path:
    """Write a model to `folder` (made where missing); each file appears whole or not at all.

    Args:
        folder: where to write.
        module: whose tensors are written.
        config: JSON values that rebuild it; "foveal_model" tells its kind. Changes to its structure (see
            `foveal.blocks.changes`) are added as "changes".
        card: text of the model card, Markdown; an existing card is kept where this is empty.

    Raises:
        ValueError: `config` holds something that is no JSON value.
    """
    folder = Path(folder)
    if changes := changes_of(module):
        config = {**config, "changes": changes}
    try:
        head = json.dumps(config, indent=2) + "\n"
    except TypeError as error:
        raise ValueError(
            f"{type(module).__name__} cannot be saved: its settings are no JSON values ({error}); "
            "make it with numbers, texts, lists and mappings"
        ) from error
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    write_atomically(folder / WEIGHTS, save(state, metadata={"format": "pt"}))
    write_atomically(folder / CONFIG, head)
    if card:
        write_atomically(folder / CARD, card)
    return folder


def open_model(folder_or_hub_id: str | Path, *, revision: str | None = None) -> tuple[Path, dict[str, Any]]:
    """The folder of a saved model, fetched from the hub where it is none here, and its configuration.

    Raises:
        FileNotFoundError: a file of the model is missing, or the hub cannot be reached.
        ValueError: `config.json` is not a JSON object.
    """
    folder = Path(folder_or_hub_id)
    if not folder.is_dir():
        folder = _download(str(folder_or_hub_id), revision)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} is no saved model: it has no {name}")
    return folder, read_config(folder)


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


def load_weights(module: nn.Module, folder: Path, changes: Sequence[Change] = ()) -> None:
    """Load a folder's weights into a module that was made from its configuration.

    Args:
        module: new.
        folder: of the model.
        changes: of the configuration, which come before the weights.

    Raises:
        ValueError: they cannot be read, or do not fit.
    """
    try:
        change_again(module, changes)
        module.load_state_dict(read_tensors(folder / WEIGHTS))
    except (SafetensorError, RuntimeError, AttributeError) as error:
        raise ValueError(f"{folder}: the saved model cannot be loaded: {error}") from error


def _download(hub_id: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=[CONFIG, WEIGHTS, CARD]))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise FileNotFoundError(
            f"{hub_id!r} is neither a folder here nor a hub repository that can be reached: {error}"
        ) from error
