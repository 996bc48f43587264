"""Features of a frozen encoder, kept in files by what they depend on: image, encoder and sizes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from foveal.encoders.base import Encoder
from foveal.files import write_atomically


def image_hash(image: Tensor) -> str:
    """Hash of an image's values, shape and type."""
    return _hash(image)


def encoder_hash(encoder: Encoder) -> str:
    """Hash of an encoder's kind, settings and weights; take it once, as it reads them all."""
    told = json.dumps([type(encoder).__qualname__, encoder.settings], sort_keys=True, default=str)
    state = encoder.state_dict()
    return _hash(told, *(part for name in sorted(state) for part in (name, state[name])))


def cache_key(image: str, encoder: str, sizes: Sequence[tuple[int, int]]) -> str:
    """Name under which the features of an image are kept.

    Args:
        image: its `image_hash`.
        encoder: its `encoder_hash`.
        sizes: (height, width) in pixels of every scale.
    """
    return _hash(image, encoder, json.dumps([list(size) for size in sizes]))


def cached_features(folder: Path, key: str, compute: Callable[[], Tensor]) -> Tensor:
    """The features kept in `folder` under `key`; where there are none, compute and keep them.

    Args:
        folder: made when missing.
        key: from `cache_key`.
        compute: called where nothing is kept.
    """
    path = Path(folder) / f"{key}.safetensors"
    if path.exists():
        return load_file(path)["features"]
    features = compute()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, save({"features": features.detach().cpu().contiguous()}))
    return features


def _hash(*parts: str | Tensor) -> str:
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            digest.update(f"{len(part)}:{part}".encode())
        else:
            digest.update(f"{tuple(part.shape)} {part.dtype}".encode())
            values = part.detach().cpu().contiguous().reshape(-1)
            digest.update(values.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
