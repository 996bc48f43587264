"""Public data sets of fundus photographs with vessel masks, read as their owners lay them out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from foveal.scans.field_of_view import find_field_of_view
from foveal.scans.reading import read_scan
from foveal.scans.structure_datasets import sorted_files, synthetic_eyes


@dataclass(frozen=True)
class VesselCase:
    """One photograph with a human's vessel mask.

    Attributes:
        name: unique in its data set.
        dataset: which data set it is of.
        patient: unique over data sets; eyes of one patient share it.
        image: (H, W, 3) uint8 RGB.
        vessels: (H, W) bool.
        field: (H, W) bool, the field of view that scores are taken in.
    """

    name: str
    dataset: str
    patient: str
    image: np.ndarray
    vessels: np.ndarray
    field: np.ndarray


def read_chase_db1(folder: Path) -> list[VesselCase]:
    """CHASE_DB1 (Fraz et al., 2012): children's eyes, first observer's masks; a patient has two eyes."""
    return [
        VesselCase(
            name=path.stem,
            dataset="CHASE_DB1",
            patient=f"CHASE_DB1/{path.stem[6:8]}",
            image=read_scan(path).image,
            vessels=_mask(folder / "manual1" / f"{path.stem}_1stHO.png"),
            field=_mask(folder / "mask" / f"{path.stem}_mask.png"),
        )
        for path in sorted_files(folder / "images", "Image_*.jpg")
    ]


def read_les_av(folder: Path) -> list[VesselCase]:
    """LES-AV (Orlando et al., 2018): disc-centred adult eyes, one a patient; any vessel kind is a vessel."""
    return [
        VesselCase(
            name=path.stem,
            dataset="LES-AV",
            patient=f"LES-AV/{path.stem}",
            image=read_scan(path).image,
            vessels=_mask(folder / "av" / path.name),
            field=_mask(folder / "mask" / f"{path.stem}_mask.png"),
        )
        for path in sorted_files(folder / "images", "*.png")
    ]


def read_image_folder(folder: Path) -> list[VesselCase]:
    """One's own photographs: `images/NAME.*` with `masks/NAME.png`, vessels not 0; each its own patient."""
    cases = []
    for path in sorted_files(folder / "images", "*.*"):
        image = read_scan(path).image
        vessels = _mask(folder / "masks" / f"{path.stem}.png")
        if vessels.shape != image.shape[:2]:
            raise ValueError(
                f"{folder}: mask {path.stem}.png is {vessels.shape} px, its photograph {image.shape[:2]}: "
                "a mask has the height and width of its photograph"
            )
        field = find_field_of_view(image).mask
        cases.append(VesselCase(path.stem, folder.name, f"{folder.name}/{path.stem}", image, vessels, field))
    return cases


READERS: dict[str, Callable[[Path], list[VesselCase]]] = {"CHASE_DB1": read_chase_db1, "LES-AV": read_les_av}


def read_vessel_cases(root: Path) -> list[VesselCase]:
    """All data sets of `READERS` that lie in `root`, or else `root` as a `read_image_folder`.

    Raises:
        FileNotFoundError: none of them is there, or a file of one is missing.
        ValueError: a photograph cannot be read, or a mask does not fit its photograph.
    """
    root = Path(root)
    if (root / "images").is_dir() and (root / "masks").is_dir():
        return read_image_folder(root)
    there = [(root / name, read) for name, read in READERS.items() if (root / name).is_dir()]
    cases = [case for folder, read in there for case in read(folder)]
    if not cases:
        raise FileNotFoundError(f"{root} holds neither images and masks, nor any of {', '.join(READERS)}")
    return cases


def synthetic_vessel_cases(count: int, *, seed: int, size: int = 1024) -> list[VesselCase]:
    """Synthetic eyes of every kind: fields of 30 to 60 degrees, disc or macula, lesions 0 to 4."""
    return [
        VesselCase(
            name := f"synthetic-{number:04d}",
            "synthetic",
            f"synthetic/{name}",
            eye.image,
            eye.vessels,
            eye.field.mask,
        )
        for number, eye in enumerate(synthetic_eyes(count, seed=seed, size=size))
    ]


def _mask(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        # Palette masks code classes by index, so the index is read, never the colour.
        return np.asarray(picture) > 0
