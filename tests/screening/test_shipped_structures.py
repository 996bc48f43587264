"""The shipped networks of structures do their work on eyes that they were not trained on."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from foveal.measurement.eye import Eye
from foveal.metrics.segmentation import binary_counts, overlap_scores
from foveal.models.pretrained import WEIGHTS
from foveal.scans.field_of_view import find_field_of_view
from foveal.scans.reading import read_scan
from foveal.scans.structure_datasets import read_les_av_kinds
from foveal.scans.synthetic import synthesize_eye
from foveal.screening import ScreenSettings
from foveal.screening.structures import (
    Networks,
    look_for_landmarks,
    look_for_lesions,
    tell_arteries_from_veins,
)
from foveal.segmentation.inference import segment_vessels

DISCS = Path(__file__).parents[1] / "measurement" / "data" / "discs.csv"


@pytest.fixture(scope="module")
def networks() -> Networks:
    return Networks.load(ScreenSettings().model_folders(), "cpu")


def test_each_network_is_small():
    for folder in ScreenSettings().model_folders().values():
        assert (folder / WEIGHTS).stat().st_size < 5_000_000


def test_disc_fovea_and_side_of_a_new_synthetic_eye(networks: Networks):
    for seed, side in ((70_001, "L"), (70_002, "R")):
        eye = synthesize_eye(seed, size=700, laterality=side)  # type: ignore[arg-type]
        vessels = segment_vessels(networks.vessels, eye.image, eye.field, views=1).mask()
        found = look_for_landmarks(networks, eye.image, eye.field, vessels, stated=None).found
        assert found.disc_mask is not None
        assert overlap_scores(binary_counts(found.disc_mask, eye.disc.mask))["dice"] > 0.85
        assert found.landmarks.fovea is not None
        assert np.hypot(*np.subtract(found.landmarks.fovea, eye.fovea)) < eye.disc.radius
        assert found.laterality == side


def test_lesions_of_a_new_synthetic_eye_are_found_and_a_healthy_one_has_few(networks: Networks):
    ill = synthesize_eye(70_003, size=1024, lesions=4)
    well = synthesize_eye(70_003, size=1024, lesions=0)
    found, none = (look_for_lesions(networks, e.image, e.field, disc=e.disc.mask).found for e in (ill, well))
    assert found.are("hard_exudates").sum() > 10
    assert len(none) <= 2


def test_arteries_and_veins_of_real_eyes_are_told_apart(networks: Networks, data_root: Path):
    for case in read_les_av_kinds(data_root / "LES-AV", names={"224", "240"}):
        field = find_field_of_view(case.image)
        vessels = case.masks.any(axis=0) | ~case.valid.all(axis=0)  # with crossings and uncertain ones
        eye = Eye(field, vessels, image=case.image)
        kinds = tell_arteries_from_veins(networks, eye, views=1)
        known = case.valid.all(axis=0) & case.masks.any(axis=0)
        counts = binary_counts(kinds.separated.arteries, case.masks[0], known)
        assert overlap_scores(counts)["balanced_accuracy"] > 0.92, case.name
        assert 0.4 < kinds.confidence <= 1


def test_discs_of_real_eyes_lie_where_they_were_seen_and_are_about_as_large(
    networks: Networks, data_root: Path
):
    pictures = [data_root / "LES-AV/images/318.png", data_root / "CHASE_DB1/images/Image_03L.jpg"]
    for path in pictures:
        image = read_scan(path).image
        field = find_field_of_view(image)
        nothing = np.zeros(image.shape[:2], bool)
        found = look_for_landmarks(networks, image, field, nothing, stated=None).found
        center, radius = _placed(path.stem)
        assert found.landmarks.disc is not None
        assert np.hypot(*np.subtract(found.landmarks.disc.center, center)) < 0.35 * radius
        assert 0.7 < found.landmarks.disc.radius / radius < 1.15


def test_the_normal_left_eye_is_seen_as_one(networks: Networks, data_root: Path):
    image = np.asarray(Image.open(data_root / "samples" / "retina.jpg").convert("RGB"))
    field = find_field_of_view(image)
    vessels = segment_vessels(networks.vessels, image, field, views=1).mask()
    found = look_for_landmarks(networks, image, field, vessels, stated=None).found
    assert found.laterality == "L"
    assert found.landmarks.fovea is not None
    assert np.hypot(*np.subtract(found.landmarks.fovea, (705, 720))) < 60  # placed by eye


def _placed(name: str) -> tuple[tuple[float, float], float]:
    """Centre and radius of the disc of a photograph, placed by eye."""
    with DISCS.open(newline="", encoding="utf-8") as file:
        row = next(row for row in csv.DictReader(file) if row["photograph"].endswith(f"/{name}"))
    return (float(row["row"]), float(row["column"])), float(row["radius"])
