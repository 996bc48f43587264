from functools import cache

import numpy as np
import pytest
from PIL import Image
from skimage import data

from foveal.scans.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from foveal.scans.synthetic import synthesize_eye


def distance(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.sqrt(np.mean((one.astype(float) - other) ** 2)))


@cache
def images() -> list[np.ndarray]:
    """A synthetic eye, a photograph of skin and hair, a small copy of it, and a grey one."""
    face = data.astronaut()[:224:2, 120:344:2].copy()
    return [synthesize_eye(0, size=112).image, face, face[::2, ::2].copy(), data.camera()[100:164, 200:264]]


@pytest.mark.parametrize("name", list(CORRUPTIONS))
def test_each_strength_is_farther_from_the_clean_image(name: str) -> None:
    for image in images():
        steps = [distance(corrupt(image, name, severity, seed=3), image) for severity in SEVERITIES]
        if name == "saturation" and image.ndim == 2:
            assert steps == [0] * 5  # grey has none
        elif name == "black_corner":  # an eye's corners are black already
            assert all(np.diff([0, *steps]) >= 0), steps
            assert steps[-1] > 0
        else:
            assert all(np.diff([0, *steps]) > 0), steps


def test_the_same_seed_gives_the_same_image_and_another_one_another() -> None:
    image = images()[2]
    for name in ("gaussian_noise", "motion_blur", "characters", "bubble"):
        first, again, other = (corrupt(image, name, 3, seed=seed) for seed in (1, 1, 2))
        np.testing.assert_array_equal(first, again)
        assert distance(first, other) > 0


def test_images_keep_shape_and_severity_0_is_a_copy() -> None:
    for image in images():
        for name in CORRUPTIONS:
            assert corrupt(image, name, 5, seed=0).shape == image.shape
        np.testing.assert_array_equal(corrupt(image, "jpeg", 0, seed=0), image)


def test_the_suite_has_every_kind() -> None:
    kinds = [corruption.kind for corruption in CORRUPTIONS.values()]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "noise": 4,
        "blur": 4,
        "colour": 6,
        "digital": 2,
        "modality": 4,
    }


def test_what_cannot_be_corrupted_is_refused() -> None:
    image = images()[2]
    with pytest.raises(ValueError, match="did you mean 'gamma'"):
        corrupt(image, "gama", 1, seed=0)
    with pytest.raises(ValueError, match="0 \\(clean\\) to 5"):
        corrupt(image, "gamma", 6, seed=0)
    with pytest.raises(ValueError, match="uint8"):
        corrupt(image / 255, "gamma", 1, seed=0)


def test_strengths_are_of_the_order_of_the_published_ones() -> None:
    """medmnistc, where it is installed, as an independent measure of how far a severity goes."""
    registry = pytest.importorskip("medmnistc.corruptions.registry", exc_type=ImportError)
    image = images()[1]
    theirs = registry.CORRUPTIONS_DS["dermamnist"]
    pairs = {"gaussian_noise": "gaussian_noise", "speckle_noise": "speckle_noise", "jpeg": "jpeg_compression"}
    for ours, name in pairs.items():
        for severity in SEVERITIES:
            other = np.asarray(theirs[name].apply(Image.fromarray(image), severity=severity - 1))
            ratio = distance(corrupt(image, ours, severity, seed=0), image) / distance(other, image)
            assert 0.5 < ratio < 2
