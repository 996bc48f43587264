"""Degradation changes what it says and nothing else."""

import inspect

import numpy as np
import pytest

from foveal.scans.synthetic import degrade, synthesize_eye

EFFECTS = [name for name in inspect.signature(degrade).parameters if name not in ("image", "seed")]


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return synthesize_eye(5, size=320).image


def test_no_strength_is_the_identity(image: np.ndarray) -> None:
    result = degrade(image, seed=1, **dict.fromkeys(EFFECTS, 0.0))
    np.testing.assert_array_equal(result, image)
    assert result is not image


@pytest.mark.parametrize("effect", EFFECTS)
def test_every_effect_grows_with_its_strength(effect: str, image: np.ndarray) -> None:
    change = [
        np.abs(degrade(image, seed=2, **{effect: strength}).astype(int) - image).mean()
        for strength in (0.1, 0.5, 1.0)
    ]
    assert 0 < change[0] < change[1] < change[2]


def test_same_seed_gives_the_same_result(image: np.ndarray) -> None:
    settings = dict.fromkeys(EFFECTS, 0.4)
    first = degrade(image, seed=3, **settings)
    np.testing.assert_array_equal(first, degrade(image, seed=3, **settings))
    assert (first != degrade(image, seed=4, **settings)).any()
    assert first.shape == image.shape
    assert first.dtype == np.uint8


def test_the_image_given_is_left_alone(image: np.ndarray) -> None:
    before = image.copy()
    degrade(image, seed=0, **dict.fromkeys(EFFECTS, 1.0))
    np.testing.assert_array_equal(image, before)


def test_haze_lowers_contrast_and_keeps_the_border_black(image: np.ndarray) -> None:
    hazy = degrade(image, seed=0, haze=1.0)
    vessels = synthesize_eye(5, size=320).vessels[60:260, 60:260]

    def contrast(picture: np.ndarray) -> float:
        green = picture[60:260, 60:260, 1].astype(float)
        return 1 - green[vessels].mean() / green[~vessels].mean()

    assert 0 < contrast(hazy) < 0.6 * contrast(image)
    assert (hazy[image.max(-1) == 0] == 0).all()


def test_blur_takes_fine_detail_and_keeps_the_mean(image: np.ndarray) -> None:
    blurred = degrade(image, seed=0, blur=0.5)
    inner = np.s_[100:220, 100:220, 1]
    assert np.diff(blurred[inner].astype(int)).std() < 0.6 * np.diff(image[inner].astype(int)).std()
    assert blurred.mean() == pytest.approx(image.mean(), abs=1)


@pytest.mark.parametrize("effect", EFFECTS)
def test_a_strength_out_of_range_is_named(effect: str, image: np.ndarray) -> None:
    with pytest.raises(ValueError, match=effect):
        degrade(image, seed=0, **{effect: 1.5})


def test_a_grey_picture_is_refused(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"\(H, W, 3\) uint8"):
        degrade(image[..., 0], seed=0, blur=0.5)
