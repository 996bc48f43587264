"""The arrays behind labelled images: members of an `.npz` file, and photographs brought to one size."""

from __future__ import annotations

import io
import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from math import prod
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from foveal.scans.field_of_view import field_square, find_field_of_view
from foveal.scans.reading import read_scan
from foveal.scans.scan import ScanError

IN_MEMORY = 256 * 2**20
"""Bytes of pixels up to which an array is held in memory; larger ones are mapped from a temporary file."""


@dataclass(frozen=True)
class LabelledArrays:
    """What an `.npz` file holds: for every split how to load its images, and its labels.

    `channels` has (N, C) booleans of the splits that tell which channels their images have.
    """

    classes: tuple[str, ...]
    several: bool
    splits: Mapping[str, tuple[Callable[[], np.ndarray], np.ndarray]]
    channels: Mapping[str, np.ndarray]


def read_arrays(path: Path, splits: Sequence[str]) -> LabelledArrays:
    """Labels of an `.npz` file and its images to be loaded; see `read_labelled_images` for the layout.

    Raises:
        ValueError: the file cannot be read, or does not have this layout; names what is wrong.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {name.removesuffix(".npy") for name in archive.namelist()}
        found = [name for name in splits if f"{name}_images" in members]
        if "train" not in found:
            raise ValueError(
                f"{path} has no split train (train_images and train_labels); it holds "
                f"{', '.join(sorted(members))}"
            )
        labels = {name: _labels(path, name, members) for name in found}
        shapes = {name: _image_shape(path, name, len(labels[name]))[1:] for name in found}
        channels = {
            name: _channels(path, name, (len(labels[name]), *shapes[name][2:]))
            for name in found
            if f"{name}_channels" in members
        }
        names = _load(path, "class_names") if "class_names" in members else None
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, KeyError) as error:
        raise ValueError(f"{path} cannot be read as .npz: {error}") from error
    if len({shape[2:] for shape in shapes.values()}) > 1:
        raise ValueError(f"{path}: images of its splits differ in their channels: {shapes}")
    several = labels["train"].ndim == 2
    classes = _classes(path, names, labels["train"])
    for name in found:
        _check_labels(path, name, labels[name], several, len(classes))
    if (labels["train"] == labels["train"][:1]).all():
        raise ValueError(
            f"{path}: all {len(labels['train'])} training images have the same label; at least two classes "
            "are needed"
        )
    kind = np.float32 if several else np.int64
    return LabelledArrays(
        classes,
        several,
        {name: (cache(partial(_load, path, f"{name}_images")), labels[name].astype(kind)) for name in found},
        channels,
    )


def read_image_arrays(path: Path, splits: Sequence[str]) -> dict[str, tuple[Callable[[], np.ndarray], int]]:
    """Of an `.npz` file's splits how to load their images, and how many there are; labels are not read.

    Raises:
        ValueError: the file cannot be read, or has no images to train on; names what is wrong.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {name.removesuffix(".npy") for name in archive.namelist()}
        found = [name for name in splits if f"{name}_images" in members]
        if "train" not in found:
            raise ValueError(f"{path} has no train_images; it holds {', '.join(sorted(members))}")
        shapes = {name: _image_shape(path, name) for name in found}
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, KeyError) as error:
        raise ValueError(f"{path} cannot be read as .npz: {error}") from error
    return {name: (cache(partial(_load, path, f"{name}_images")), shapes[name][0]) for name in found}


def stack_photographs(
    paths: Sequence[Path], *, size: int, channels: int, view: Literal["whole", "field"]
) -> tuple[np.ndarray, dict[int, str]]:
    """Photographs as one array, each read once.

    Args:
        paths: files that `read_scan` reads, however small.
        size: pixels along each side of the squares.
        channels: 1 or 3.
        view: see `LabelledSplit.load`.

    Returns:
        (N, size, size[, 3]) uint8, and why some could not be read, by their number.
    """
    shape = (len(paths), size, size) + ((3,) if channels == 3 else ())
    array = _mapped(shape) if prod(shape) > IN_MEMORY else np.zeros(shape, np.uint8)
    failures: dict[int, str] = {}
    square = partial(_square, size=size, channels=channels, view=view)
    # decoders release the interpreter's lock
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        for index, pixels in enumerate(pool.map(square, paths)):
            if isinstance(pixels, str):
                failures[index] = pixels
            else:
                array[index] = pixels
    return array, failures


def _square(path: Path, *, size: int, channels: int, view: str) -> np.ndarray | str:
    """One photograph on a square, or the reason why there is none."""
    try:
        image = read_scan(path, min_side=1).image
        if view == "field":
            square = Image.fromarray(field_square(image, find_field_of_view(image), size=size))
        else:
            square = _fitted(Image.fromarray(image), size)
    except ScanError as error:
        return error.reason
    except ValueError as error:  # no field of view
        return str(error)
    return np.asarray(square.convert("L") if channels == 1 else square)


def _fitted(image: Image.Image, size: int) -> Image.Image:
    """The whole image in the middle of a black square, its aspect kept."""
    factor = size / max(image.size)
    wide, high = (max(1, round(side * factor)) for side in image.size)
    small = image.resize((wide, high), Image.Resampling.BICUBIC, reducing_gap=3.0)
    square = Image.new("RGB", (size, size))
    square.paste(small, ((size - wide) // 2, (size - high) // 2))
    return square


def _labels(path: Path, split: str, members: set[str]) -> np.ndarray:
    if f"{split}_labels" not in members:
        raise ValueError(f"{path} has {split}_images but no {split}_labels")
    labels = _load(path, f"{split}_labels")
    if labels.dtype.kind not in "iubf" or labels.ndim not in (1, 2) or not labels.size:
        raise ValueError(
            f"{path}: {split}_labels are {labels.shape} {labels.dtype}; allowed: numbers (N,), (N, 1), (N, K)"
        )
    if not np.isfinite(labels).all():
        raise ValueError(f"{path}: {split}_labels hold NaN or infinity; allowed: whole numbers from 0")
    return labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels


def _image_shape(path: Path, split: str, labels: int | None = None) -> tuple[int, ...]:
    """(N, H, W) or (N, H, W, C) of a split, of which there are as many as labels."""
    shape, dtype = _header(path, f"{split}_images")
    first = len(shape) == 4 and shape[3] not in (1, 3) and shape[1] in (1, 3)  # channels, not rows
    if dtype != np.uint8 or len(shape) not in (3, 4) or not all(shape[1:]) or first:
        raise ValueError(
            f"{path}: {split}_images are {shape} {dtype}; allowed: (N, H, W) or (N, H, W, C) uint8, channels "
            "last"
        )
    if labels is not None and shape[0] != labels:
        raise ValueError(f"{path}: {split} has {shape[0]} images and {labels} labels; one label an image")
    if not shape[0]:
        raise ValueError(f"{path}: {split} has no image")
    return shape


def _channels(path: Path, split: str, shape: tuple[int, ...]) -> np.ndarray:
    """(N, C) booleans: which channels each image has."""
    there = _load(path, f"{split}_channels")
    shape = shape if len(shape) == 2 else (*shape, 1)
    if there.shape != shape or there.dtype.kind not in "iub" or not np.isin(there, (0, 1)).all():
        raise ValueError(
            f"{path}: {split}_channels are {there.shape} {there.dtype}; allowed: {shape} of 0 and 1, which "
            "channels each image has"
        )
    if not there.any(axis=1).all():
        row = int(np.flatnonzero(~there.astype(bool).any(axis=1))[0])
        raise ValueError(f"{path}: {split}_channels[{row}] has no channel; leave an image without any out")
    return there.astype(bool)


def _classes(path: Path, names: np.ndarray | None, labels: np.ndarray) -> tuple[str, ...]:
    if names is not None:
        if names.dtype.kind not in "US" or names.ndim != 1 or len(set(names.tolist())) != len(names):
            raise ValueError(
                f"{path}: class_names are {names.shape} {names.dtype}; allowed: (K,) distinct texts"
            )
        return tuple(name.decode() if isinstance(name, bytes) else str(name) for name in names.tolist())
    if labels.ndim == 2:
        return tuple(map(str, range(labels.shape[1])))
    there = np.unique(labels)
    top = int(there[-1])
    if top >= len(there) > 1 and there[0] >= 0:
        absent = next(label for label in range(top) if label not in there)
        raise ValueError(
            f"{path}: training labels go up to {top}, but none is {absent}; are they out of range? Else name "
            "all classes in class_names"
        )
    return tuple(map(str, range(top + 1)))


def _check_labels(path: Path, split: str, labels: np.ndarray, several: bool, classes: int) -> None:
    if (labels.ndim == 2) != several or (several and labels.shape[1] != classes):
        raise ValueError(
            f"{path}: {split}_labels have shape {labels.shape}, which does not fit {classes} "
            f"{'findings' if several else 'classes'} of the training images"
        )
    top = 1 if several else classes - 1
    wrong = (labels != np.floor(labels)) | (labels < 0) | (labels > top)
    if wrong.any():
        row = int(np.argwhere(wrong)[0][0])
        raise ValueError(
            f"{path}: {split}_labels[{row}] is {labels[row].tolist()}; allowed: whole numbers from 0 to {top}"
        )


def _header(path: Path, name: str) -> tuple[tuple[int, ...], np.dtype]:
    with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as stream:
        return _read_header(path, name, stream)


def _read_header(path: Path, name: str, stream: object) -> tuple[tuple[int, ...], np.dtype]:
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    version = np.lib.format.read_magic(stream)  # type: ignore[arg-type]
    if version not in readers:
        raise ValueError(f"{path}: {name} is of .npy format {version}; allowed: 1.0, 2.0")
    shape, fortran, dtype = readers[version](stream)  # type: ignore[arg-type]
    if dtype.hasobject:
        raise ValueError(
            f"{path}: {name} holds Python objects, which are never unpickled; save numbers or texts"
        )
    if fortran and len(shape) > 1:
        raise ValueError(f"{path}: {name} is in Fortran order; save np.ascontiguousarray of it")
    return shape, dtype


def _load(path: Path, name: str) -> np.ndarray:
    """One member of the file: in memory where it is small, else unpacked into a temporary file and mapped."""
    with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as stream:
        shape, dtype = _read_header(path, name, stream)
        size = prod(shape) * dtype.itemsize
        with io.BytesIO() if size <= IN_MEMORY else tempfile.TemporaryFile() as file:
            shutil.copyfileobj(stream, file, 2**20)
            file.flush()
            if file.tell() != size:
                raise ValueError(f"{path}: {name} has {file.tell()} bytes of {size}; the file is cut short")
            if isinstance(file, io.BytesIO):
                return np.frombuffer(file.getvalue(), dtype).reshape(shape)
            return np.memmap(file, dtype, mode="r", shape=shape)


def _mapped(shape: tuple[int, ...]) -> np.ndarray:
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, np.uint8, mode="w+", shape=shape)
