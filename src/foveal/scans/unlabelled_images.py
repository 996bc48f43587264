"""Images without labels, for self-supervised training: any folder of photographs, or MedMNIST's `.npz`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from foveal.scans.discovery import find_scans
from foveal.scans.image_splits import ImageSplit, Skipped, deal_validation, photograph_reader
from foveal.scans.labelled_arrays import read_image_arrays
from foveal.scans.labelled_images import SPLIT_FOLDERS, SPLITS, patients_of


@dataclass(frozen=True, eq=False)
class UnlabelledImages:
    """A data set of images alone.

    Attributes:
        source: the file or folder.
        splits: by name, of "train", "val" and "test"; "train" is always there.
        skipped: images that were left out before reading.
    """

    source: Path
    splits: Mapping[str, ImageSplit]
    skipped: tuple[Skipped, ...] = ()

    def with_validation(self, fraction: float, *, seed: int) -> UnlabelledImages:
        """The same data with a split "val", dealt from "train" by patient where there is none.

        Args:
            fraction: share of the training images.
            seed: of the dealing.

        Raises:
            ValueError: too few patients.
        """
        return replace(self, splits=deal_validation(self.splits, fraction, seed=seed))


def read_unlabelled_images(source: str | Path) -> UnlabelledImages:
    """Names of the images of a data set; pixels are read later, by `ImageSplit.load`.

    Sources:
        - a folder, with all folders below it, of images of every kind that `read_scan` reads; folders of
          classes mean nothing. Where it has a folder `train`, only that and `val` and `test` beside it are
          read, as splits;
        - a manifest (.csv or .parquet), a glob pattern or one image, as `find_scans` takes them;
        - `.npz` with `train_images` (N, H, W) or (N, H, W, 3) uint8, and `val_images`, `test_images` where
          they are there; labels are not looked at.
        A `manifest.csv` or `manifest.parquet` in the folder tells the patients of the images; all others are
        taken for patients of their own.

    Raises:
        FileNotFoundError: the source does not exist.
        ValueError: it holds no images.
    """
    path = Path(source)
    if path.suffix.lower() == ".npz" and path.is_file():
        return UnlabelledImages(path, _array_splits(path))
    folders = {"train": path}
    if path.is_dir():
        named = {
            SPLIT_FOLDERS[folder.name.lower()]: folder
            for folder in sorted(path.iterdir())
            if folder.is_dir() and folder.name.lower() in SPLIT_FOLDERS
        }
        folders = named if "train" in named else folders
    root = path if path.is_dir() else path.parent
    patients = patients_of(root)
    splits: dict[str, ImageSplit] = {}
    skipped: list[Skipped] = []
    for name, folder in folders.items():
        refs = find_scans(folder if len(folders) > 1 or folder != path else source)
        skipped += [Skipped(str(ref.path), ref.error) for ref in refs if ref.error is not None]
        kept = [ref for ref in refs if ref.error is None]
        if not kept:
            raise ValueError(
                f"{folder} holds no image that can be read; {skipped[0].path}: {skipped[0].reason}"
            )
        paths = [ref.path for ref in kept]
        splits[name] = ImageSplit(
            names=tuple(_told(path, root) for path in paths),
            patients=tuple(ref.patient or patients.get(ref.path.resolve()) for ref in kept),
            rows=np.arange(len(paths)),
            read=photograph_reader(paths),
        )
    return UnlabelledImages(path, splits, tuple(skipped))


def _array_splits(path: Path) -> dict[str, ImageSplit]:
    return {
        name: ImageSplit(
            names=tuple(f"{name}/{row}" for row in range(count)),
            patients=(None,) * count,
            rows=np.arange(count),
            read=lambda size, channels, view, load=load: (load(), {}),  # type: ignore[misc]
        )
        for name, (load, count) in read_image_arrays(path, SPLITS).items()
    }


def _told(path: Path, root: Path) -> str:
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
