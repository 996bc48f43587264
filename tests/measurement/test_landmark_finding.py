import csv
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from reference_masks import DISCS
from scipy import ndimage

from foveal.measurement.fovea import find_fovea
from foveal.measurement.landmark_finding import FoundLandmarks, find_landmarks
from foveal.measurement.landmarks import Disc
from foveal.scans.field_of_view import find_field_of_view
from foveal.scans.structure_datasets import synthetic_eyes
from foveal.scans.synthetic import SyntheticEye, synthesize_eye


def disc_map(mask: np.ndarray, radius: float) -> np.ndarray:
    """A disc's mask as a network would show it: blurred, and never quite sure."""
    return 0.95 * ndimage.gaussian_filter(mask.astype(np.float32), 0.1 * radius)


def fovea_map(eye: SyntheticEye, random: np.random.Generator) -> np.ndarray:
    """A spot of some height near the fovea, as a network would show it."""
    at = np.add(eye.fovea, 0.15 * eye.disc.radius * random.normal(size=2))
    rows, columns = np.indices(eye.field.mask.shape)
    squared = ((rows - at[0]) ** 2 + (columns - at[1]) ** 2) / (0.4 * eye.disc.radius) ** 2
    return (random.uniform(0.4, 0.95) * np.exp(-0.5 * squared) * eye.field.mask).astype(np.float32)


def find_in(eye: SyntheticEye, fovea: np.ndarray | None = None, **stated) -> FoundLandmarks:
    disc = disc_map(eye.disc.mask, eye.disc.radius)
    nothing = np.zeros_like(disc)
    fovea = nothing if fovea is None else fovea
    return find_landmarks(disc, fovea, eye.image, eye.vessels, eye.field, **stated)


def error(eye: SyntheticEye, position: tuple[float, float]) -> float:
    """Distance to the true fovea in disc diameters."""
    return float(np.hypot(*np.subtract(position, eye.fovea)) / (2 * eye.disc.radius))


@cache
def seen_eyes() -> tuple[SyntheticEye, ...]:
    """Eyes of many kinds with the fovea in the field."""

    def inside(eye: SyntheticEye) -> bool:
        reach = 0.5 * eye.field.diameter - 1.5 * eye.disc.radius
        return bool(np.hypot(*np.subtract(eye.fovea, eye.field.center)) < reach)

    return tuple(eye for eye in synthetic_eyes(24, seed=5, size=512) if inside(eye))


@cache
def disc_centered_eyes() -> tuple[SyntheticEye, ...]:
    """Narrow fields around the disc, in which no fovea is."""
    return tuple(
        synthesize_eye(seed, size=512, centered="disc", field_angle=27.0, lesions=seed % 5)
        for seed in range(12)
    )


@pytest.mark.parametrize("with_network", [True, False])
def test_fovea_is_found_with_the_networks_map_and_without(with_network):
    random = np.random.default_rng(0)
    found = [find_in(eye, fovea_map(eye, random) if with_network else None) for eye in seen_eyes()]
    assert len(found) >= 20
    errors = [
        error(eye, each.landmarks.fovea)
        for eye, each in zip(seen_eyes(), found, strict=True)
        if each.landmarks.fovea is not None
    ]
    assert len(errors) >= 0.9 * len(found)
    assert np.median(errors) < (0.12 if with_network else 0.15)
    assert np.quantile(errors, 0.9) < (0.25 if with_network else 0.5)
    known = [each.laterality == eye.laterality for eye, each in zip(seen_eyes(), found, strict=True)]
    assert np.mean(known) >= 0.95


def test_no_fovea_is_found_in_fields_without_one_and_the_side_is_still_told():
    eyes = disc_centered_eyes()
    found = [find_in(eye) for eye in eyes]
    assert not any(each.landmarks.fovea for each in found)
    assert all(each.fovea_confidence is None for each in found)
    told = [(each.laterality, eye.laterality) for eye, each in zip(eyes, found, strict=True)]
    assert all(side in (None, truth) for side, truth in told)
    assert np.mean([side == truth for side, truth in told]) >= 0.6


def test_a_mirrored_photograph_is_of_the_other_side():
    eye = seen_eyes()[0]
    disc = disc_map(eye.disc.mask, eye.disc.radius)
    nothing = np.zeros_like(disc)
    found = find_in(eye)
    mirrored = find_landmarks(
        disc[:, ::-1], nothing, eye.image[:, ::-1].copy(), eye.vessels[:, ::-1], eye.field
    )
    assert {found.laterality, mirrored.laterality} == {"L", "R"}
    row, column = found.landmarks.fovea
    assert mirrored.landmarks.fovea == pytest.approx((row, disc.shape[1] - 1 - column), abs=1.0)


def test_a_stated_side_is_kept_and_its_contradiction_told():
    eye = seen_eyes()[0]
    truth = eye.laterality
    wrong = "R" if truth == "L" else "L"
    agreeing, contradicted = find_in(eye, stated=truth), find_in(eye, stated=wrong)
    assert agreeing.landmarks.laterality == truth
    assert agreeing.laterality_note is None
    assert contradicted.landmarks.laterality == wrong
    assert contradicted.laterality == truth
    assert "left eye" in contradicted.laterality_note
    assert "right eye" in contradicted.laterality_note
    assert error(eye, contradicted.landmarks.fovea) < 0.5
    with pytest.raises(ValueError, match="stated laterality must be 'L', 'R' or None, got 'OD'"):
        find_in(eye, stated="OD")


def test_a_fovea_without_a_disc_is_found_by_the_network_and_darkness_with_less_confidence():
    random = np.random.default_rng(1)
    for seed in range(4):
        eye = synthesize_eye(seed, size=512, field_angle=45.0)
        spot, nothing = fovea_map(eye, random), np.zeros(eye.field.mask.shape, np.float32)
        alone = find_landmarks(nothing, spot, eye.image, eye.vessels, eye.field)
        assert alone.landmarks.disc is None
        assert alone.laterality is None
        assert error(eye, alone.landmarks.fovea) < 0.3
        assert alone.fovea_confidence <= find_in(eye, spot).fovea_confidence


def test_confidence_of_the_fovea_is_about_the_rate_of_hits():
    found = [(eye, find_in(eye)) for eye in seen_eyes()]
    sure = [(each.fovea_confidence, error(eye, each.landmarks.fovea) < 0.5) for eye, each in found
            if each.landmarks.fovea is not None]  # fmt: skip
    assert np.mean([hit for _, hit in sure]) == pytest.approx(np.mean([c for c, _ in sure]), abs=0.1)


def test_wrong_arrays_are_named():
    eye = seen_eyes()[0]
    flat = np.zeros(eye.field.mask.shape, np.float32)
    with pytest.raises(ValueError, match="disc_probability must lie in 0 to 1, its values go from 0 to 2"):
        find_landmarks(np.where(eye.disc.mask, 2, flat), flat, eye.image, eye.vessels, eye.field)
    with pytest.raises(ValueError, match="fovea_probability must be a float array"):
        find_fovea(eye.disc.mask, eye.image, eye.vessels, eye.field)
    with pytest.raises(ValueError, match="vessels must be bool of shape"):
        find_fovea(flat, eye.image, flat, eye.field)
    with pytest.raises(ValueError, match="image must be uint8 of shape"):
        find_fovea(flat, eye.image[..., 0], eye.vessels, eye.field)


def chase(root: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray, Disc]]:
    with DISCS.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            collection, name = row["photograph"].split("/")
            if collection == "CHASE_DB1":
                with Image.open(root / collection / "images" / f"{name}.jpg") as picture:
                    image = np.array(picture.convert("RGB"))
                with Image.open(root / collection / "manual1" / f"{name}_1stHO.png") as picture:
                    vessels = np.array(picture) > 0
                yield name, image, vessels, Disc((int(row["row"]), int(row["column"])), int(row["radius"]))


def test_laterality_of_chase_photographs_is_never_wrong_and_mostly_told(data_root):
    told = []
    for name, image, vessels, disc in chase(data_root):
        rows, columns = np.indices(vessels.shape)
        mask = np.hypot(rows - disc.center[0], columns - disc.center[1]) <= disc.radius
        nothing = np.zeros(vessels.shape, np.float32)
        found = find_landmarks(
            disc_map(mask, disc.radius), nothing, image, vessels, find_field_of_view(image)
        )
        assert found.laterality in (None, name[-1]), name
        told.append(found.laterality is not None)
    assert np.mean(told) >= 0.5
