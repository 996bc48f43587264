"""Photographs with masks of structures: arteries and veins, optic disc, lesions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from foveal.scans.reading import read_scan
from foveal.scans.synthetic import SyntheticEye, synthesize_eye

ARTERY_VEIN = ("artery", "vein")
IDRID_CODES = {"microaneurysms": "MA", "haemorrhages": "HE", "hard_exudates": "EX", "soft_exudates": "SE"}
LANDMARKS = ("disc", "fovea")
FOVEA_RADIUS = 0.6  # of the disc's: the spot that stands for the fovea


@dataclass(frozen=True)
class StructureCase:
    """One photograph with masks of K structures.

    Attributes:
        name: unique in its data set.
        dataset: which data set it is of.
        patient: unique over data sets; eyes of one patient share it.
        image: (H, W, 3) uint8 RGB.
        masks: (K, H, W) bool.
        valid: (K, H, W) bool, where a mask is to be trusted.
    """

    name: str
    dataset: str
    patient: str
    image: np.ndarray
    masks: np.ndarray
    valid: np.ndarray


def read_les_av_kinds(folder: Path) -> list[StructureCase]:
    """LES-AV (Orlando et al., 2018): masks of `ARTERY_VEIN`; crossings and uncertain vessels are not valid.

    Raises:
        FileNotFoundError: a file is missing.
    """
    cases = []
    for path in sorted_files(folder / "images", "*.png"):
        with Image.open(folder / "av" / path.name) as picture:
            index = np.asarray(picture)  # a palette codes the kind by index, never by colour
        known = np.broadcast_to(index != 3, (2, *index.shape))
        masks = np.stack([index == 1, index == 2])
        image = read_scan(path).image
        cases.append(StructureCase(path.stem, "LES-AV", f"LES-AV/{path.stem}", image, masks, known))
    return cases


def iterate_idrid(folder: Path, structures: tuple[str, ...]) -> Iterator[StructureCase]:
    """IDRiD's segmentation set (Porwal et al., 2018), photograph by photograph: they are of 12 megapixels.

    A structure of `structures` is one of `LESION_KINDS`, "disc", or another, which IDRiD does not label and
    which is valid nowhere. Where IDRiD has no mask of a lesion, there is none in the photograph.

    Args:
        folder: holds `images`, `MA`, `HE`, `EX`, `SE`, `OD`.
        structures: masks of a case, in order.

    Raises:
        FileNotFoundError: no photograph is there.
    """
    codes = IDRID_CODES | {"disc": "OD"}
    for path in sorted_files(folder / "images", "*.jpg"):
        image = read_scan(path).image
        masks = np.zeros((len(structures), *image.shape[:2]), bool)
        valid = np.ones_like(masks)
        for number, structure in enumerate(structures):
            code = codes.get(structure)
            file = folder / str(code) / f"{path.stem}_{code}.png"
            if code is None:
                valid[number] = False
            elif file.is_file():
                with Image.open(file) as picture:
                    masks[number] = np.asarray(picture) > 0
        yield StructureCase(path.stem, "IDRiD", f"IDRiD/{path.stem}", image, masks, valid)


def synthetic_eyes(count: int, *, seed: int, size: int = 1024) -> Iterator[SyntheticEye]:
    """Synthetic eyes of every kind: fields of 30 to 60 degrees, disc or macula centred, lesions 0 to 4."""
    random = np.random.default_rng(seed)
    for _ in range(count):
        yield synthesize_eye(
            int(random.integers(2**31)),
            size=size,
            centered="disc" if random.random() < 0.5 else "macula",
            field_angle=float(random.uniform(30, 60)),
            lesions=int(random.integers(0, 5)),
        )


def synthetic_case(eye: SyntheticEye, name: str, structures: tuple[str, ...]) -> StructureCase:
    """A synthetic eye as a labelled photograph; of a fovea out of sight there is no spot.

    Raises:
        ValueError: a structure is not known.
    """
    spot = np.hypot(*(np.indices(eye.vessels.shape).T - eye.fovea).T) <= FOVEA_RADIUS * eye.disc.radius
    known = {
        "artery": np.isin(eye.artery_vein, (1, 3)),
        "vein": np.isin(eye.artery_vein, (2, 3)),
        "disc": eye.disc.mask,
        "fovea": spot & eye.field.mask,
        **{str(kind): mask for kind, mask in eye.lesions.items()},
    }
    for structure in structures:
        if structure not in known:
            raise ValueError(f"structure {structure!r} is not known; known are {', '.join(known)}")
    masks = np.stack([known[structure] for structure in structures])
    return StructureCase(name, "synthetic", f"synthetic/{name}", eye.image, masks, np.ones_like(masks))


def sorted_files(folder: Path, pattern: str) -> list[Path]:
    """Files of a folder that match a pattern, by name.

    Raises:
        FileNotFoundError: there is none.
    """
    files = sorted(folder.glob(pattern))
    if not files:
        raise FileNotFoundError(f"{folder} holds no file {pattern}")
    return files
