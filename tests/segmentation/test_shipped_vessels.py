"""The shipped vessel model does its work on eyes that it was not trained on."""

import pytest

from foveal.metrics.segmentation import binary_counts, overlap_scores, pixel_auc
from foveal.models import Segmenter, shipped_model
from foveal.scans.field_of_view import find_field_of_view
from foveal.scans.synthetic import degrade, synthesize_eye
from foveal.scans.vessel_datasets import read_vessel_cases
from foveal.segmentation.evaluation import evaluate_vessels
from foveal.segmentation.inference import segment_vessels


@pytest.fixture(scope="module")
def model():
    return Segmenter.from_pretrained(shipped_model("vessels"))


def test_vessels_of_a_new_synthetic_eye_are_found_in_every_look(model):
    eye = synthesize_eye(987_654, size=700, field_angle=40, lesions=2)
    looks = {
        "as it is": eye.image,
        "red and blue swapped": eye.image[..., ::-1].copy(),
        "degraded": degrade(
            eye.image, seed=0, blur=0.1, noise=0.2, illumination=0.4, colour_cast=0.4, jpeg=0.3
        ),
    }
    for look, image in looks.items():
        found = segment_vessels(model, image, find_field_of_view(image))
        scores = overlap_scores(binary_counts(found.mask(), eye.vessels, eye.field.mask))
        assert pixel_auc(found.probability, eye.vessels, eye.field.mask) > 0.9, look
        assert scores["dice"] > 0.6, look


def test_lesions_are_mostly_not_taken_for_vessels(model):
    eye = synthesize_eye(123_321, size=700, lesions=4)
    found = segment_vessels(model, eye.image, eye.field).mask()
    exudates, haemorrhages = eye.lesions["hard_exudates"], eye.lesions["haemorrhages"]
    assert exudates.sum() > 50
    assert haemorrhages.sum() > 50
    assert found[exudates].mean() < 0.1
    assert found[haemorrhages].mean() < 0.35


def test_real_photographs_are_segmented(model, data_root):
    cases = {c.name: c for c in read_vessel_cases(data_root) if c.name in ("Image_05R", "240")}
    scores = evaluate_vessels(model, list(cases.values()))
    assert scores.dice.min() > 0.78
    assert scores.auc.min() > 0.975
