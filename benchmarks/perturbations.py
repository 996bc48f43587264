"""Eyes of published masks, and what may happen to a mask without the eye being another one."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from foveal.kernels.thinning import thin
from foveal.measurement.eye import Eye
from foveal.measurement.landmarks import Disc, Landmarks
from foveal.scans.field_of_view import FieldOfView, find_field_of_view
from foveal.scans.reading import read_scan

DISCS = Path(__file__).parents[1] / "tests" / "measurement" / "data" / "discs.csv"
LEFT_OF_LES_AV = {"12", "34", "37", "119", "224", "240", "279", "304", "367", "370"}  # by eye
NOMINAL_FOVEA = (0.3, 2.5)  # disc diameters below and temporal of the disc's centre
ANGLES = (5, 17, 45)
SPECKS, GAPS, ROUGHNESS = 100, 20, 0.2


@dataclass(frozen=True)
class Photograph:
    """An eye with its masks, the photograph, and a second observer's vessels where there are any."""

    collection: str
    name: str
    eye: Eye
    second: np.ndarray | None = None

    def changed(self, change: Callable[[np.ndarray], np.ndarray], **others: object) -> Photograph:
        """Each mask changed in the same way; the photograph stays only where it is given."""
        masks = {
            name: None if mask is None else change(mask)
            for name in ("vessels", "arteries", "veins")
            for mask in [getattr(self.eye, name)]
        }
        eye = dataclasses.replace(self.eye, **masks, **{"image": None, **others})
        return dataclasses.replace(self, eye=eye)


def photographs(data: Path) -> Iterator[Photograph]:
    """CHASE_DB1 (vessels, two observers) and LES-AV (vessels, arteries, veins).

    Discs are those of the tests, placed by eye. Most fields of 30 degrees do not show the fovea, so it is put
    where it lies on average: what needs it is exercised, not measured as anatomy.
    """
    with DISCS.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        collection, name = row["photograph"].split("/")
        disc = Disc((float(row["row"]), float(row["column"])), float(row["radius"]))
        if collection == "CHASE_DB1":
            folder = data / collection
            image = read_scan(folder / "images" / f"{name}.jpg").image
            vessels, second = (
                _index(folder / f"manual{number}" / f"{name}_{order}HO.png") > 0
                for number, order in ((1, "1st"), (2, "2nd"))
            )
            side = name[-1]
            masks = {"vessels": vessels}
        else:
            image = read_scan(data / collection / "images" / f"{name}.png").image
            index = _index(data / collection / "av" / f"{name}.png")
            side, second = "L" if name in LEFT_OF_LES_AV else "R", None
            masks = {"vessels": index > 0, "arteries": index % 2 == 1, "veins": index >= 2}
        temporal = 1 if side == "L" else -1
        down, across = (2 * disc.radius * step for step in NOMINAL_FOVEA)
        fovea = disc.center[0] + down, disc.center[1] + temporal * across
        landmarks = Landmarks(disc, fovea, "L" if side == "L" else "R")
        field = find_field_of_view(image)
        yield Photograph(
            collection, name, Eye(field, landmarks=landmarks, image=image, **masks), second=second
        )


def _index(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture).astype(np.uint8)


@dataclass(frozen=True)
class Perturbation:
    """What is done to a photograph.

    Attributes:
        name: for people, unique.
        group: that it is told with.
        apply: from the photograph and a source of randomness to the changed one; None where it does not
            apply.
        factor: by which lengths in pixels grow.
    """

    name: str
    group: str
    apply: Callable[[Photograph, np.random.Generator], Photograph | None]
    factor: float = 1.0


def scaled(photograph: Photograph, factor: float) -> Photograph:
    """At another resolution: masks averaged, cut at one half; the photograph and all landmarks scaled."""
    old = photograph.eye.field.mask.shape
    height, width = (round(factor * side) for side in old)
    steps = height / old[0], width / old[1]

    def resize(picture: np.ndarray) -> np.ndarray:
        return np.array(Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR))

    def move(point: tuple[float, float]) -> tuple[float, float]:
        row, column = ((value + 0.5) * step - 0.5 for value, step in zip(point, steps, strict=True))
        return row, column

    def change(mask: np.ndarray) -> np.ndarray:
        return resize(np.where(mask, 255, 0).astype(np.uint8)) >= 128

    image = photograph.eye.image
    return _moved(photograph, change, move, None if image is None else resize(image), factor)


def turned(photograph: Photograph, degrees: float, order: int) -> Photograph:
    """Turned about the middle on a canvas that holds all; order 0 takes the nearest pixel, 1 interpolates."""
    old = np.array(photograph.eye.field.mask.shape)
    turn = np.deg2rad(degrees)
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    new = np.ceil(np.abs(matrix) @ old - 1e-6).astype(int)
    middle, new_middle = (old - 1) / 2, (new - 1) / 2

    def resample(mask: np.ndarray) -> np.ndarray:
        return ndimage.affine_transform(
            mask.astype(np.float32),
            matrix.T,
            middle - matrix.T @ new_middle,
            output_shape=tuple(new),
            order=order,
            mode="grid-constant",
        )

    def move(point: tuple[float, float]) -> tuple[float, float]:
        row, column = matrix @ (np.array(point) - middle) + new_middle
        return float(row), float(column)

    return _moved(photograph, lambda mask: resample(mask) >= 0.5, move, None, 1.0)


def _moved(
    photograph: Photograph,
    change: Callable[[np.ndarray], np.ndarray],
    move: Callable[[tuple[float, float]], tuple[float, float]],
    image: np.ndarray | None,
    factor: float,
) -> Photograph:
    field, landmarks = photograph.eye.field, photograph.eye.landmarks
    mask = change(field.mask)
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    box = int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1
    moved_field = FieldOfView(
        mask, move(field.center), factor * field.diameter, field.shape, box, field.completeness
    )
    disc = landmarks.known_disc
    moved_landmarks = Landmarks(
        Disc(move(disc.center), factor * disc.radius), move(landmarks.known_fovea), landmarks.laterality
    )
    return photograph.changed(change, field=moved_field, landmarks=moved_landmarks, image=image)


def specked(photograph: Photograph, random: np.random.Generator) -> Photograph:
    """With round specks of 1 to 3 pixels radius, each an artery or a vein, anywhere in the field."""
    field = photograph.eye.field.mask
    places = np.argwhere(field)[random.integers(0, np.count_nonzero(field), SPECKS)]
    specks = _discs(field.shape, places, random.uniform(1, 3, SPECKS))
    venous = _discs(field.shape, places[SPECKS // 2 :], np.full(SPECKS - SPECKS // 2, 4.0))
    eye = photograph.eye
    masks = {"vessels": eye.vessels | specks}
    if eye.arteries is not None and eye.veins is not None:
        masks |= {"arteries": eye.arteries | (specks & ~venous), "veins": eye.veins | (specks & venous)}
    return dataclasses.replace(photograph, eye=dataclasses.replace(eye, image=None, **masks))


def roughened(photograph: Photograph, random: np.random.Generator) -> Photograph:
    """One in five pixels along both sides of every border changed."""
    flipped = random.random(photograph.eye.field.mask.shape) < ROUGHNESS

    def change(mask: np.ndarray) -> np.ndarray:
        border = ndimage.binary_dilation(mask) ^ ndimage.binary_erosion(mask)
        return mask ^ (border & flipped)

    return photograph.changed(change)


def interrupted(photograph: Photograph, random: np.random.Generator) -> Photograph:
    """With gaps as long as the vessel is wide, and 3 pixels more, at random places of the centre lines."""
    vessels = photograph.eye.vessels
    assert vessels is not None, "photographs() reads it"
    lines = np.argwhere(thin(vessels))
    places = lines[random.integers(0, len(lines), GAPS)]
    radii = ndimage.distance_transform_edt(vessels)[tuple(places.T)] + 1.5
    whole = ~_discs(vessels.shape, places, radii)
    return photograph.changed(lambda mask: mask & whole)


def _discs(shape: tuple[int, ...], places: np.ndarray, radii: np.ndarray) -> np.ndarray:
    found = np.zeros(shape, bool)
    reach = int(np.ceil(radii.max()))
    row, column = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    for place, radius in zip(places, radii, strict=True):
        top, left = np.maximum(place - reach, 0)
        window = found[top : place[0] + reach + 1, left : place[1] + reach + 1]
        disc = np.hypot(row, column) <= radius
        disc = disc[reach - (place[0] - top) :, reach - (place[1] - left) :]
        window |= disc[: window.shape[0], : window.shape[1]]
    return found


def observed_again(photograph: Photograph, random: np.random.Generator) -> Photograph | None:
    """The second observer's vessels."""
    if photograph.second is None:
        return None
    eye = dataclasses.replace(photograph.eye, vessels=photograph.second, image=None)
    return dataclasses.replace(photograph, eye=eye)


def perturbations() -> list[Perturbation]:
    """All of them, in the order of the table."""
    return [
        *(
            Perturbation(f"{factor:g}x", f"{factor:g}x", lambda p, _, f=factor: scaled(p, f), factor)
            for factor in (0.5, 0.75, 1.5, 2.0)
        ),
        Perturbation("dilated", "1 px wider", lambda p, _: p.changed(ndimage.binary_dilation)),
        Perturbation("eroded", "1 px thinner", lambda p, _: p.changed(ndimage.binary_erosion)),
        Perturbation("turned by 90", "turned 90", lambda p, _: turned(p, 90, 0)),
        *(
            Perturbation(
                f"turned by {angle}, {name}",
                f"turned, {name}",
                lambda p, _, a=angle, o=order: turned(p, a, o),
            )
            for order, name in ((0, "nearest"), (1, "smooth"))
            for angle in ANGLES
        ),
        Perturbation("specks", "specks", specked),
        Perturbation("rough borders", "rough borders", roughened),
        Perturbation("gaps", "gaps", interrupted),
        Perturbation("second observer", "second observer", observed_again),
    ]
