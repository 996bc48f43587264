"""Quality grades of synthetic eyes, of their degradations, of foreign pictures and of public photographs."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy import ndimage

from foveal.scans.field_of_view import FieldOfView, find_field_of_view
from foveal.scans.quality import LIMITS, Limit, Quality, assess_quality
from foveal.scans.synthetic import synthesize_eye


@pytest.fixture(scope="module")
def eye() -> np.ndarray:
    image = synthesize_eye(1, size=768).image
    image.setflags(write=False)
    return image


def grade(image: np.ndarray) -> Quality:
    image = np.ascontiguousarray(image)
    return assess_quality(image, find_field_of_view(image))


def field_of(image: np.ndarray) -> FieldOfView:
    return find_field_of_view(np.ascontiguousarray(image))


def blurred(image: np.ndarray, share: float) -> np.ndarray:
    """Blur inside the field, sigma as a share of its diameter; the field's edge stays sharp."""
    field = field_of(image)
    sigma = share * field.diameter
    weight = ndimage.gaussian_filter(field.mask.astype(np.float32), sigma, truncate=3)[..., None]
    inside = image * field.mask[..., None].astype(np.float32)
    smooth = ndimage.gaussian_filter(inside, (sigma, sigma, 0), truncate=3) / np.maximum(weight, 1e-3)
    return np.where(field.mask[..., None], smooth, image).astype(np.uint8)


def darkened(image: np.ndarray) -> np.ndarray:
    return (image * 0.15).astype(np.uint8)


def overexposed(image: np.ndarray) -> np.ndarray:
    bright = np.clip(image * 2.5 + 60, 0, 255).astype(np.uint8)
    return np.where(field_of(image).mask[..., None], bright, image)


def half_in_shadow(image: np.ndarray) -> np.ndarray:
    shade = np.where(np.arange(image.shape[1]) < image.shape[1] // 2, 0.08, 1.0)
    return (image * shade[None, :, None]).astype(np.uint8)


def half_behind_a_lid(image: np.ndarray) -> np.ndarray:
    hidden = field_of(image).mask & (np.arange(image.shape[0]) < image.shape[0] // 2)[:, None]
    return np.where(hidden[..., None], np.uint8([190, 140, 120]), image)


def noisy(image: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 60, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def small(image: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((200, 200), Image.Resampling.BOX))


def swapped(image: np.ndarray) -> np.ndarray:
    return image[..., ::-1]


DEGRADATIONS: list[tuple[Callable[[np.ndarray], np.ndarray], str]] = [
    (lambda image: blurred(image, 0.015), "Blurred: sharpness"),
    (darkened, "Too dark: brightness"),
    (overexposed, "Overexposed: "),
    (half_in_shadow, "Partly hidden: "),
    (half_behind_a_lid, "Partly hidden: "),
    (noisy, "Noisy: noise"),
    (small, "Low resolution: diameter of the field"),
    (swapped, "Red and blue look swapped"),
]


def test_synthetic_eye_is_good_without_reasons(eye: np.ndarray) -> None:
    quality = grade(eye)
    assert (quality.grade, quality.reasons) == ("good", ())


@pytest.mark.parametrize(("degrade", "reason"), DEGRADATIONS, ids=[reason for _, reason in DEGRADATIONS])
def test_strong_degradation_is_rejected_and_named(
    eye: np.ndarray, degrade: Callable[[np.ndarray], np.ndarray], reason: str
) -> None:
    quality = grade(degrade(eye))
    assert quality.grade == "reject"
    assert any(text.startswith(reason) for text in quality.reasons), quality.reasons


def test_cut_field_is_rejected_and_named(eye: np.ndarray) -> None:
    quality = grade(eye[: eye.shape[0] // 2, : eye.shape[1] // 2])
    assert quality.grade == "reject"
    assert any(reason.startswith("Field cut off: visible share") for reason in quality.reasons)


def test_mild_blur_is_usable(eye: np.ndarray) -> None:
    quality = grade(blurred(eye, 0.0055))
    assert quality.grade == "usable"
    assert quality.reasons[0].startswith("Blurred")


def test_sharpness_falls_with_blur_and_ignores_contrast_and_resolution(eye: np.ndarray) -> None:
    sharpness = [grade(blurred(eye, share)).measures["sharpness"] for share in (0.002, 0.005, 0.01, 0.015)]
    assert all(np.diff(sharpness) < 0)
    reference = blurred(eye, 0.005)
    paler = (reference * 0.7).astype(np.uint8)
    larger = np.asarray(Image.fromarray(reference).resize((1400, 1400), Image.Resampling.BICUBIC))
    for variant in (paler, larger):
        assert grade(variant).measures["sharpness"] == pytest.approx(sharpness[1], rel=0.15)


def test_noise_is_measured_and_is_not_taken_for_sharpness(eye: np.ndarray) -> None:
    soft = blurred(eye, 0.015)
    noise = np.random.default_rng(0).normal(0, 1, soft.shape[:2])[..., None]
    weak, strong = (grade(np.clip(soft + level * noise, 0, 255).astype(np.uint8)) for level in (10, 20))
    assert strong.measures["noise"] == pytest.approx(2 * weak.measures["noise"], rel=0.15)
    for quality in (weak, strong):
        assert any(reason.startswith("Noisy") for reason in quality.reasons)
    assert any(reason.startswith("Blurred") for reason in weak.reasons)


def test_grey_photograph_is_noted_not_rejected(eye: np.ndarray) -> None:
    quality = grade(np.repeat(eye[..., 1:2], 3, axis=2))
    assert quality.grade != "reject"
    assert quality.reasons[-1].startswith("Note: the photograph is grey")


def test_green_cast_is_named(eye: np.ndarray) -> None:
    tinted = (eye * np.array([0.4, 1.0, 0.8])).astype(np.uint8)
    quality = grade(tinted)
    assert quality.grade != "good"
    assert any(reason.startswith("Colour cast: hue") for reason in quality.reasons)


def test_page_of_text_is_not_an_eye() -> None:
    page = Image.new("RGB", (1200, 900), "white")
    pen = ImageDraw.Draw(page)
    for line in range(30, 880, 30):
        pen.text((40, line), "the quick brown fox jumps over the lazy dog " * 2, fill=0, font_size=20)
    quality = grade(np.asarray(page))
    assert quality.grade == "reject"


def test_plain_disc_without_structure_is_rejected() -> None:
    rows, columns = np.ogrid[:700, :700]
    image = np.zeros((700, 700, 3), dtype=np.uint8)
    image[np.hypot(rows - 350, columns - 350) < 330] = (180, 90, 50)
    assert grade(image).grade == "reject"


@pytest.mark.parametrize("name", ["astronaut", "coffee", "camera", "chelsea"])
def test_natural_photograph_is_not_an_eye(name: str) -> None:
    data = pytest.importorskip("skimage.data")
    picture = getattr(data, name)()
    quality = grade(picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=2))
    assert quality.grade == "reject"
    assert any(reason.startswith("Does not look like an eye photograph") for reason in quality.reasons)


def test_limits_order_the_grades_and_name_value_and_limit() -> None:
    below = Limit("sharpness", "below", 0.4, 0.2, "Blurred", "sharpness")
    assert [below.grade(value) for value in (0.5, 0.4, 0.3, 0.2, 0.1)] == [
        "good",
        "good",
        "usable",
        "usable",
        "reject",
    ]
    assert below.reason(0.3) == "Blurred: sharpness 0.3 is below 0.4."
    assert below.reason(0.1) == "Blurred: sharpness 0.1 is below 0.2."
    above = Limit("dark", "above", 0.1, 0.3, "Too dark", "dark share", percent=True)
    assert above.reason(0.5) == "Too dark: dark share 50.0% is above 30%."
    for limit in LIMITS:
        assert (limit.usable > limit.reject) == (limit.bad == "below")


def test_field_of_another_frame_is_refused(eye: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"field is of a frame of \(768, 768\), image has \(700, 768\)"):
        assess_quality(eye[:700], field_of(eye))


def test_image_of_another_type_is_refused(eye: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"must be \(H, W, 3\) uint8"):
        assess_quality(eye[..., 0], field_of(eye))


def read(path: Path) -> np.ndarray:
    picture = Image.open(path)
    if picture.width > 2000:
        picture.draft("RGB", (picture.width // 2, picture.height // 2))
    return np.asarray(picture.convert("RGB"))


@pytest.mark.parametrize("index", [2, 10, 17, 40])
def test_idrid_photographs_are_not_rejected(data_root: Path, index: int) -> None:
    path = sorted((data_root / "IDRiD" / "segmentation" / "images").glob("*.jpg"))[index]
    assert grade(read(path)).grade != "reject"


@pytest.mark.parametrize(
    "name", ["CHASE_DB1/images/Image_03L.jpg", "LES-AV/images/586.png", "samples/retina.jpg"]
)
def test_other_cameras_are_not_rejected(data_root: Path, name: str) -> None:
    assert grade(read(data_root / name)).grade != "reject"


def test_degraded_public_photograph_is_rejected(data_root: Path) -> None:
    image = read(data_root / "CHASE_DB1" / "images" / "Image_03L.jpg")
    for degrade, _ in DEGRADATIONS:
        assert grade(degrade(image)).grade == "reject"
