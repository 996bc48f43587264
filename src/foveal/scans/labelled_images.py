"""Images with class labels: MedMNIST's `.npz` files (Yang et al. 2023) and one folder of images a class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from foveal.scans.image_splits import (
    ImageSplit,
    LoadedImages,
    Skipped,
    View,
    deal_validation,
    photograph_reader,
)
from foveal.scans.manifest import read_manifest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from foveal.scans.discovery import ScanRef

__all__ = ["LabelledImages", "LabelledSplit", "LoadedImages", "Skipped", "View", "read_labelled_images"]

SPLITS = ("train", "val", "test")
SPLIT_FOLDERS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


@dataclass(frozen=True, eq=False, kw_only=True)
class LabelledSplit(ImageSplit):
    """Images of one split with their labels; pixels are read when `load` is called.

    Attributes:
        labels: (N,) int64 classes, or (N, K) float32 of 0 and 1 where an image has several findings.
        channels: (N, C) bool, which channels each image has; None for all.
    """

    labels: np.ndarray
    channels: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """A data set for classification.

    Attributes:
        source: the file or folder.
        classes: names in the order of the labels.
        several: an image may have any number of the classes.
        splits: by name, of "train", "val" and "test"; "train" is always there.
        skipped: images that were left out before reading.
    """

    source: Path
    classes: tuple[str, ...]
    several: bool
    splits: Mapping[str, LabelledSplit]
    skipped: tuple[Skipped, ...] = ()

    def with_validation(self, fraction: float, *, seed: int) -> LabelledImages:
        """The same data with a split "val", dealt from "train" by patient and class where there is none.

        Args:
            fraction: share of the training images.
            seed: of the dealing.

        Raises:
            ValueError: too few patients.
        """
        labels = None if self.several else self.splits["train"].labels
        return replace(self, splits=deal_validation(self.splits, fraction, seed=seed, labels=labels))


def read_labelled_images(source: str | Path) -> LabelledImages:
    """Labels and names of a data set; pixels are read later, by `LabelledSplit.load`.

    Sources:
        - `.npz` in the layout of MedMNIST: `train_images` (N, H, W) or (N, H, W, C) uint8, `train_labels`
          (N,) or (N, 1) of classes from 0, or (N, K) of 0 and 1 for several findings; `train_channels` (N, C)
          of 0 and 1 where images lack channels, whose values then do not matter; the same of `val` and `test`
          where they are there; `class_names` (K,) where it is there, else "0", "1", ...;
        - a folder with one folder a class, of images of every kind that `read_scan` reads, in folders below
          it too;
        - a folder with `train`, `val` and `test` (the last two where they are there), each with one folder a
          class.
        Classes of folders are ordered by name. A `manifest.csv` or `manifest.parquet` in the folder tells the
        patients of the images (see `read_manifest`), all others are taken for patients of their own, and in a
        column `channels` which of red, green and blue they have, such as "0 2"; an empty cell means all.

    Raises:
        FileNotFoundError: the source does not exist.
        ValueError: it is none of these, has no training images, or fewer than two classes, or labels that do
            not fit; names the file, the split and the first image at fault.
    """
    source = Path(source)
    if source.is_dir():
        return _read_folder(source)
    if not source.exists():
        raise FileNotFoundError(f"{source} does not exist; allowed: a .npz file or a folder of images")
    if source.suffix.lower() != ".npz":
        raise ValueError(f"{source} ends in {source.suffix or 'nothing'}; allowed: .npz or a folder")
    from foveal.scans.labelled_arrays import read_arrays

    arrays = read_arrays(source, SPLITS)
    splits = {
        name: LabelledSplit(
            labels=labels,
            names=tuple(f"{name}/{row}" for row in range(len(labels))),
            patients=(None,) * len(labels),
            rows=np.arange(len(labels)),
            read=lambda size, channels, view, load=load: (load(), {}),  # type: ignore[misc]
            channels=arrays.channels.get(name),
        )
        for name, (load, labels) in arrays.splits.items()
    }
    return LabelledImages(source, arrays.classes, arrays.several, splits)


def _read_folder(source: Path) -> LabelledImages:
    folders = _folders(source)
    split_folders = {SPLIT_FOLDERS[f.name.lower()]: f for f in folders if f.name.lower() in SPLIT_FOLDERS}
    if "train" not in split_folders:
        if split_folders and len(split_folders) == len(folders):
            raise ValueError(f"{source} holds {', '.join(split_folders)} but no folder train to learn from")
        split_folders = {"train": source}
    elif len(split_folders) != len(folders):
        odd = [f.name for f in folders if f.name.lower() not in SPLIT_FOLDERS]
        raise ValueError(
            f"{source} holds a folder train and also {', '.join(odd) or 'two of one split'}; allowed beside "
            f"train: val (valid, validation) and test"
        )
    classes = tuple(folder.name for folder in _folders(split_folders["train"]))
    if len(classes) < 2:
        raise ValueError(
            f"{split_folders['train']} holds {len(classes)} folder(s) of images; classification needs "
            "one folder a class, at least two"
        )
    patients, channels = patients_of(source), _channels_of(source)
    splits, skipped = {}, []
    for name in SPLITS:
        if name in split_folders:
            splits[name], left_out = _folder_split(source, split_folders[name], classes, patients, channels)
            skipped += left_out
    _check_patients(source, splits)
    return LabelledImages(source, classes, False, splits, tuple(skipped))


def _folder_split(
    source: Path,
    folder: Path,
    classes: Sequence[str],
    patients: Mapping[Path, str],
    channels: Mapping[Path, np.ndarray],
) -> tuple[LabelledSplit, list[Skipped]]:
    from foveal.scans.discovery import find_scans

    refs: list[ScanRef] = []
    labels: list[int] = []
    skipped = []
    for class_folder in _folders(folder):
        if class_folder.name not in classes:
            raise ValueError(
                f"{class_folder} is of no class that the training images have: {', '.join(classes)}"
            )
        for ref in find_scans(class_folder):
            if ref.error is not None:
                skipped.append(Skipped(str(ref.path.relative_to(source)), ref.error))
                continue
            refs.append(ref)
            labels.append(classes.index(class_folder.name))
    if not refs:
        raise ValueError(f"{folder} holds no image in its folders of classes")
    paths = [ref.path for ref in refs]
    split = LabelledSplit(
        labels=np.array(labels, dtype=np.int64),
        names=tuple(str(path.relative_to(source)) for path in paths),
        patients=tuple(patients.get(path.resolve()) for path in paths),
        rows=np.arange(len(paths)),
        read=photograph_reader(paths),
        channels=np.stack([channels.get(path.resolve(), np.ones(3, bool)) for path in paths])
        if channels
        else None,
    )
    return split, skipped


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def patients_of(source: Path) -> dict[Path, str]:
    """Patients by the real path of their images, from the folder's manifest if there is one."""
    return _told(source, "patient")


def _channels_of(source: Path) -> dict[Path, np.ndarray]:
    """(3,) booleans, which of red, green and blue an image has, from the folder's manifest if it tells."""
    found = {}
    for path, text in _told(source, "channels").items():
        words = text.split()
        if not set(words) <= {"0", "1", "2"} or len(set(words)) < len(words):
            raise ValueError(
                f"{source}: channels of {path.name} are {text!r} in the manifest; allowed: different "
                "ones of 0, 1 and 2 with blanks between them, or an empty cell for all"
            )
        found[path] = np.isin(("0", "1", "2"), words)
    return found


def _told(source: Path, column: str) -> dict[Path, str]:
    """What a column of the folder's manifest says, by the real path of the images, empty cells left out."""
    for name in ("manifest.csv", "manifest.parquet"):
        if (source / name).is_file():
            frame = read_manifest(source / name)
            if column in frame:
                pairs = zip(frame["path"], frame[column], strict=True)
                return {(source / path).resolve(): text for path, text in pairs if text}
    return {}


def _check_patients(source: Path, splits: Mapping[str, LabelledSplit]) -> None:
    first: dict[str, str] = {}
    for name, split in splits.items():
        for patient in split.patients:
            if patient is not None and first.setdefault(patient, name) != name:
                raise ValueError(
                    f"{source}: patient {patient} has images in {first[patient]} and in {name}; allowed: "
                    "all of a patient in one split"
                )
