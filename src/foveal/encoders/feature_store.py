"""Maps of features on disk as half-precision memory maps, one file a key, so that a run can go on later."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from foveal.files import sweep_partial_files, write_atomically

_LARGEST = float(np.finfo(np.float16).max)


class FeatureStore:
    """Arrays by key in a folder of `.npy` files in fp16, read as memory maps.

    Ten thousand images of 37 x 37 x 768 features are 21 GB; nothing of it is read before it is asked for.

    Args:
        folder: made when missing; what a killed run left half written there is removed.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        sweep_partial_files(self.folder)

    def __contains__(self, key: str) -> bool:
        return self._path(key).is_file()

    def __getitem__(self, key: str) -> Tensor:
        """The features kept under a key, float32.

        Raises:
            KeyError: there are none.
        """
        if key not in self:
            raise KeyError(f"{self.folder} has no features under {key}")
        return torch.from_numpy(np.asarray(np.load(self._path(key), mmap_mode="r"), dtype=np.float32))

    def __setitem__(self, key: str, features: Tensor) -> None:
        """Keep features; the file appears whole or not at all.

        Raises:
            ValueError: they hold NaN, infinity, or what fp16 cannot hold.
        """
        largest = float(features.detach().abs().max()) if features.numel() else 0.0
        if not largest <= _LARGEST:
            raise ValueError(f"features up to {largest:.4g}; fp16 holds finite ones up to {_LARGEST:g}")
        array = features.detach().cpu().to(torch.float16).numpy()

        def write(path: Path) -> None:
            with path.open("wb") as file:
                np.save(file, array)

        write_atomically(self._path(key), write)

    def get(self, key: str, compute: Callable[[], Tensor]) -> Tensor:
        """The features kept under a key; where there are none, compute and keep them."""
        if key not in self:
            self[key] = compute()
        return self[key]

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.npy"
