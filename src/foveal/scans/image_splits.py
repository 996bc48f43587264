"""Splits of images whose pixels are read when they are asked for, with or without labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, Generic, Literal, Self, TypeVar

import numpy as np

from foveal.scans.manifest import split_patients

View = Literal["whole", "field"]
S = TypeVar("S", bound="ImageSplit")


@dataclass(frozen=True)
class Skipped:
    """An image that is left out: where it is, and why."""

    path: str
    reason: str


@dataclass(frozen=True, eq=False)
class LoadedImages(Generic[S]):
    """Images whose pixels can be taken one by one.

    Attributes:
        split: their names, patients and perhaps labels, M of each.
        array: (N, H, W) or (N, H, W, C) uint8, N at least M; may be mapped from a temporary file.
        skipped: images that could not be read and are not in `split`.
    """

    split: S
    array: np.ndarray
    skipped: tuple[Skipped, ...]

    def __len__(self) -> int:
        return len(self.split)

    def image(self, index: int) -> np.ndarray:
        """Pixels of image `index` of the split, (H, W) or (H, W, C) uint8."""
        return np.asarray(self.array[self.split.rows[index]])


@dataclass(frozen=True, eq=False, kw_only=True)
class ImageSplit:
    """Images of one split; pixels are read when `load` is called.

    Attributes:
        names: one an image: its path below the folder, or its split and row.
        patients: one an image; None where nobody says.
        rows: (N,) where the images are in the array that `read` gives.
        read: (size, channels, view) to an array of pixels, and why some rows of it could not be read.
    """

    names: tuple[str, ...]
    patients: tuple[str | None, ...]
    rows: np.ndarray
    read: Callable[[int, int, View], tuple[np.ndarray, Mapping[int, str]]]

    def __len__(self) -> int:
        return len(self.names)

    def load(self, *, size: int, channels: int, view: View = "whole") -> LoadedImages[Self]:
        """Read the images, each once, with memory that does not grow with their number.

        What has many pixels is in a temporary file that is mapped to memory and vanishes with the array.

        Args:
            size: pixels along each side of a photograph's square; those of an `.npz` stay as they are.
            channels: 1 (grey) or 3 (RGB) of a photograph; those of an `.npz` stay as they are.
            view: "whole" photographs on a black square, or the square around the "field" of view of an eye,
                as screening sees it.

        Raises:
            ValueError: no image could be read; `channels` of photographs is neither 1 nor 3.
        """
        array, failures = self.read(size, channels, view)
        failed = np.isin(self.rows, list(failures))
        skipped = tuple(
            Skipped(self.names[index], failures[int(self.rows[index])]) for index in np.flatnonzero(failed)
        )
        if failed.all():
            first = skipped[0]
            raise ValueError(f"none of {len(self)} images can be read; {first.path}: {first.reason}")
        return LoadedImages(self.subset(np.flatnonzero(~failed)) if skipped else self, array, skipped)

    def subset(self, chosen: np.ndarray) -> Self:
        """The images of these numbers, in this order."""
        taken: dict[str, Any] = {}
        for field in fields(self):
            values = getattr(self, field.name)
            if isinstance(values, np.ndarray):
                taken[field.name] = values[chosen]
            elif isinstance(values, tuple):
                taken[field.name] = tuple(values[index] for index in chosen)
        return replace(self, **taken)


def photograph_reader(
    paths: Sequence[Path],
) -> Callable[[int, int, View], tuple[np.ndarray, Mapping[int, str]]]:
    """How the photographs of a split are read; splits that are dealt from it share the pixels."""

    @cache
    def read(size: int, channels: int, view: View) -> tuple[np.ndarray, Mapping[int, str]]:
        from foveal.scans.labelled_arrays import stack_photographs

        if channels not in (1, 3):
            raise ValueError(f"channels is {channels}; photographs are read with 1 (grey) or 3 (RGB)")
        return stack_photographs(paths, size=size, channels=channels, view=view)

    return read


def deal_validation(
    splits: Mapping[str, S], fraction: float, *, seed: int, labels: np.ndarray | None = None
) -> dict[str, S]:
    """The splits with one "val", dealt from "train" by patient (and class) where there is none.

    Args:
        splits: by name; "train" is there.
        fraction: share of the training images.
        seed: of the dealing.
        labels: (N,) classes of the training images, of which both sides get their share.

    Raises:
        ValueError: too few patients.
    """
    if "val" in splits:
        return dict(splits)
    import pandas as pd

    train = splits["train"]
    frame = pd.DataFrame({"path": train.names, "patient": train.patients})
    if labels is not None:
        frame["label"] = labels
    side = split_patients(
        frame,
        fractions={"train": 1 - fraction, "val": fraction},
        seed=seed,
        stratify=None if labels is None else "label",
    ).to_numpy()
    return {**splits, **{name: train.subset(np.flatnonzero(side == name)) for name in ("train", "val")}}
