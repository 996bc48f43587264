"""Photographs with masks of structures: arteries and veins, optic disc, lesions."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from foveal.scans.reading import read_scan
from foveal.scans.synthetic import SyntheticEye, synthesize_eye

ARTERY_VEIN = ("artery", "vein")
ARTERY_OR_VEIN = (
    "artery_or_vein",
)  # artery (True) or vein (False); valid on vessels of one known kind alone
IDRID_CODES = {"microaneurysms": "MA", "haemorrhages": "HE", "hard_exudates": "EX", "soft_exudates": "SE"}
LANDMARKS = ("disc", "fovea")
LES_AV_TRAINING = ("12", "15", "33", "34", "37", "42", "49", "53", "90", "111", "119")
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


def read_les_av_kinds(
    folder: Path, structures: tuple[str, ...] = ARTERY_VEIN, *, names: Collection[str] | None = None
) -> list[StructureCase]:
    """LES-AV (Orlando et al., 2018); crossings and uncertain vessels are not valid.

    Args:
        folder: holds `images` and `av`.
        structures: masks of a case, in order: "artery", "vein" or "artery_or_vein".
        names: of the photographs to read; None for all.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: LES-AV does not label a structure.
    """
    cases = []
    for path in sorted_files(folder / "images", "*.png"):
        if names is not None and path.stem not in names:
            continue
        with Image.open(folder / "av" / path.name) as picture:
            index = np.asarray(picture)  # a palette codes the kind by index, never by colour
        masks, valid = _chosen(_kinds(index == 1, index == 2, index != 3), structures)
        image = read_scan(path).image
        cases.append(StructureCase(path.stem, "LES-AV", f"LES-AV/{path.stem}", image, masks, valid))
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


def iterate_without_lesions(data: Path, lesions: tuple[str, ...]) -> Iterator[StructureCase]:
    """Photographs in which no lesion of diabetic retinopathy is to be found: all masks are empty.

    They are IDRiD's of grade 0, CHASE_DB1's of children, and the training half of LES-AV's of healthy eyes
    and eyes with glaucoma; the last two were not graded for lesions.

    Args:
        data: folder that holds `IDRiD/grading`, `CHASE_DB1` and `LES-AV`.
        lesions: kinds of lesions, one mask each.

    Raises:
        FileNotFoundError: a data set is missing.
    """
    grading = data / "IDRiD" / "grading"
    grades = pd.read_csv(grading / "labels.csv").set_index("image_name").retinopathy_grade
    paths = [p for p in sorted_files(grading / "images", "*.jpg") if grades[p.stem] == 0]
    paths += sorted_files(data / "CHASE_DB1" / "images", "*.jpg")
    paths += [data / "LES-AV" / "images" / f"{name}.png" for name in LES_AV_TRAINING]
    for path in paths:
        image = read_scan(path).image
        masks = np.zeros((len(lesions), *image.shape[:2]), bool)
        dataset = path.parents[1].name if path.parents[1] != grading else "IDRiD-grading"
        yield StructureCase(path.stem, dataset, f"{dataset}/{path.stem}", image, masks, ~masks)


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
    seen = np.ones_like(spot)
    others: dict[str, np.ndarray] = {"disc": eye.disc.mask, "fovea": spot & eye.field.mask}
    others |= {str(kind): mask for kind, mask in eye.lesions.items()}
    known = _kinds(np.isin(eye.artery_vein, (1, 3)), np.isin(eye.artery_vein, (2, 3)), seen)
    known |= {name: (mask, seen) for name, mask in others.items()}
    masks, valid = _chosen(known, structures)
    return StructureCase(name, "synthetic", f"synthetic/{name}", eye.image, masks, valid)


def _kinds(
    artery: np.ndarray, vein: np.ndarray, known: np.ndarray
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Mask of each way to tell arteries from veins, and where it is valid."""
    return {
        "artery": (artery, known),
        "vein": (vein, known),
        "artery_or_vein": (artery, known & (artery ^ vein)),
    }


def _chosen(
    known: Mapping[str, tuple[np.ndarray, np.ndarray]], structures: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Masks and validity (K, H, W) of the structures wanted."""
    for structure in structures:
        if structure not in known:
            raise ValueError(f"structure {structure!r} is not known; known are {', '.join(known)}")
    masks, valid = zip(*(known[structure] for structure in structures), strict=True)
    return np.stack(masks), np.stack(valid)


def sorted_files(folder: Path, pattern: str) -> list[Path]:
    """Files of a folder that match a pattern, by name.

    Raises:
        FileNotFoundError: there is none.
    """
    files = sorted(folder.glob(pattern))
    if not files:
        raise FileNotFoundError(f"{folder} holds no file {pattern}")
    return files
