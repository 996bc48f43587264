"""The field-of-view finder on drawn fields of known geometry and on public photographs."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageDraw
from scipy import ndimage

from foveal.scans.boxes import Box
from foveal.scans.circle import Circle, find_circle
from foveal.scans.field_of_view import (
    FieldOfView,
    crop,
    crop_padded,
    find_field_of_view,
    place_back,
    square_box,
)

CENTER, RADIUS = (250.3, 281.8), 222.4


@cache
def draw_retina(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Retina-coloured texture over a whole frame: vignetting, a bright disc, dark curved vessels, grain."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[: shape[0], : shape[1]] / max(shape)
    shade = 0.75 + 0.35 * columns + 0.06 * ndimage.gaussian_filter(rng.normal(size=shape), 20) * 50
    for bend in np.linspace(-0.5, 0.5, 7):
        vessel = np.abs(rows - 0.45 - bend * np.sin(3.0 * columns) - 0.02 * np.sin(25 * columns)) < 0.007
        shade = np.where(ndimage.uniform_filter(vessel.astype(float), 3) > 0.3, 0.6 * shade, shade)
    shade = shade + 0.8 * (np.hypot(rows - 0.45, columns - 0.3) < 0.06)
    image = shade[..., None] * np.array([165.0, 80.0, 45.0]) + rng.normal(0, 2, (*shape, 3))
    return np.clip(image, 12, 255).astype(np.uint8)


def disc(shape: tuple[int, int], center: tuple[float, float] = CENTER, radius: float = RADIUS) -> np.ndarray:
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return (rows - center[0]) ** 2 + (columns - center[1]) ** 2 <= radius**2


def draw_photograph(background: tuple[int, int, int] = (0, 0, 0)) -> tuple[np.ndarray, np.ndarray]:
    """A 500 x 560 photograph of a circular field and its exact mask."""
    mask = disc((500, 560))
    image = np.where(mask[..., None], draw_retina((500, 560)), np.array(background, dtype=np.uint8))
    return image, mask


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    return float((first & second).sum() / (first | second).sum())


def assert_drawn_circle(field: FieldOfView, tolerance: float = 1.0) -> None:
    assert field.shape == "circle"
    assert field.diameter == pytest.approx(2 * RADIUS, abs=2 * tolerance)
    assert field.center == pytest.approx(CENTER, abs=tolerance)


def jpeg(image: np.ndarray, tmp_path: Path, quality: int) -> np.ndarray:
    Image.fromarray(image).save(tmp_path / "ringing.jpg", quality=quality)
    return np.asarray(Image.open(tmp_path / "ringing.jpg"))


@pytest.mark.parametrize("background", [(0, 0, 0), (255, 255, 255), (128, 128, 128), (20, 40, 160)])
def test_circle_is_found_on_any_flat_background(background: tuple[int, int, int]) -> None:
    image, mask = draw_photograph(background)
    field = find_field_of_view(image)
    assert_drawn_circle(field)
    assert overlap(field.mask, mask) > 0.99
    rows, columns = np.flatnonzero(field.mask.any(axis=1)), np.flatnonzero(field.mask.any(axis=0))
    assert field.box == (rows[0], columns[0], rows[-1] + 1, columns[-1] + 1)
    assert field.completeness == pytest.approx(1.0, abs=0.005)


def test_swapped_channels_negatives_grey_and_darkness_do_not_move_the_circle() -> None:
    image, _ = draw_photograph()
    grey = np.repeat(image[..., 1:2], 3, axis=2)
    for variant in (image[..., ::-1], 255 - image, grey, (image * 0.15).astype(np.uint8)):
        assert_drawn_circle(find_field_of_view(np.ascontiguousarray(variant)))


def test_noise_and_jpeg_ringing_do_not_move_the_circle(tmp_path: Path) -> None:
    image, _ = draw_photograph()
    noise = np.random.default_rng(0).normal(0, 12, image.shape)
    assert_drawn_circle(find_field_of_view(np.clip(image + noise, 0, 255).astype(np.uint8)))
    assert_drawn_circle(find_field_of_view(jpeg(image, tmp_path, quality=15)))


def test_labels_notch_and_dark_edge_are_not_part_of_the_outline() -> None:
    image, mask = draw_photograph()
    image[mask & (np.arange(560) < 130)[None, :]] //= 12  # a dim nasal edge
    picture = Image.fromarray(image)
    pen = ImageDraw.Draw(picture)
    pen.rectangle((10, 10, 120, 30), fill=(255, 255, 255))
    pen.text((440, 5), "OD 4711", fill=(255, 255, 0), font_size=24)
    pen.polygon([(270, 20), (300, 20), (285, 60)], fill=(0, 0, 0))
    pen.rectangle((425, 75, 465, 100), fill=(170, 90, 60))
    field = find_field_of_view(np.asarray(picture))
    assert_drawn_circle(field, tolerance=1.5)
    assert overlap(field.mask, mask) > 0.985


@pytest.mark.parametrize(
    "box",
    [(90, 20, 420, 540), (10, 130, 490, 420), (10, 20, 330, 540), (10, 20, 270, 300)],
    ids=["top-bottom", "left-right", "bottom", "quarter"],
)
def test_circle_cut_by_the_frame_keeps_its_geometry(box: Box) -> None:
    image, mask = draw_photograph()
    field = find_field_of_view(np.ascontiguousarray(crop(image, box)))
    assert field.diameter == pytest.approx(2 * RADIUS, abs=4)
    assert field.center == pytest.approx((CENTER[0] - box[0], CENTER[1] - box[1]), abs=2)
    assert overlap(field.mask, crop(mask, box)) > 0.985
    expected = crop(mask, box).sum() / (np.pi * RADIUS**2)
    assert field.completeness == pytest.approx(expected, abs=0.02)


def test_circle_cut_inside_a_canvas_is_masked_to_what_is_there() -> None:
    image, mask = draw_photograph()
    top, bottom = 90, 420
    for background in (0, 255):
        canvas = np.full((500, 560, 3), background, dtype=np.uint8)
        canvas[mask] = image[mask]
        canvas[:top] = canvas[bottom:] = background
        canvas[0, 0] = canvas[-1, -1] = background + 1 if background == 0 else 254  # no exact border to trim
        field = find_field_of_view(canvas)
        assert_drawn_circle(field, tolerance=1.5)
        assert (field.box[0], field.box[2]) == pytest.approx((top, bottom), abs=1)


def test_borderless_photograph_is_full() -> None:
    image = draw_retina((420, 600), seed=3)
    field = find_field_of_view(image)
    assert field.shape == "full"
    assert field.mask.all()
    assert (field.diameter, field.box, field.completeness) == (600.0, (0, 0, 420, 600), 1.0)


def test_corner_arcs_of_a_full_frame_give_the_circle() -> None:
    image, mask = draw_photograph()
    side = int(0.75 * RADIUS)
    box = (int(CENTER[0]) - side, int(CENTER[1]) - side, int(CENTER[0]) + side, int(CENTER[1]) + side)
    field = find_field_of_view(np.ascontiguousarray(crop(image, box)))
    assert field.shape == "full"
    assert field.diameter == pytest.approx(2 * RADIUS, rel=0.02)
    assert overlap(field.mask, crop(mask, box)) > 0.985


@pytest.mark.parametrize("corner", [0, 60])
@pytest.mark.parametrize("background", [0, 255])
def test_rounded_rectangle_is_found(corner: int, background: int, tmp_path: Path) -> None:
    shape = Image.new("L", (560, 500), 0)
    ImageDraw.Draw(shape).rounded_rectangle((70, 40, 500, 420), radius=corner, fill=255)
    mask = np.asarray(shape) > 0
    image = np.where(mask[..., None], draw_retina((500, 560)), np.uint8(background))
    field = find_field_of_view(jpeg(image, tmp_path, quality=85))
    assert field.shape == "rectangle"
    assert field.box == pytest.approx((40, 70, 421, 501), abs=1)
    assert field.diameter == pytest.approx(431, abs=2)
    assert overlap(field.mask, mask) > 0.985


@settings(max_examples=5, deadline=None)
@given(
    border=st.tuples(*[st.integers(0, 300)] * 4),
    background=st.sampled_from([(0, 0, 0), (255, 255, 255), (90, 90, 90)]),
)
def test_pasting_a_border_leaves_the_cropped_image_unchanged(
    border: tuple[int, int, int, int], background: tuple[int, int, int]
) -> None:
    image, _ = draw_photograph(background)
    top, left, bottom, right = border
    canvas = np.empty((500 + top + bottom, 560 + left + right, 3), dtype=np.uint8)
    canvas[:] = background
    canvas[top : top + 500, left : left + 560] = image
    reference, field = find_field_of_view(image), find_field_of_view(canvas)
    shifted = (
        reference.box[0] + top,
        reference.box[1] + left,
        reference.box[2] + top,
        reference.box[3] + left,
    )
    assert field.box == shifted
    assert np.array_equal(crop(canvas, field.box), crop(image, reference.box))
    assert np.array_equal(crop(field.mask, field.box), crop(reference.mask, reference.box))
    assert field.diameter == pytest.approx(reference.diameter, abs=1e-6)


def test_flips_and_quarter_turns_move_the_field_with_the_image() -> None:
    image, _ = draw_photograph()
    field = find_field_of_view(image)
    for turn in range(4):
        for mirrored in (False, True):
            moved = np.rot90(image[:, ::-1] if mirrored else image, turn)
            expected = np.rot90(field.mask[:, ::-1] if mirrored else field.mask, turn)
            found = find_field_of_view(np.ascontiguousarray(moved))
            assert found.diameter == pytest.approx(field.diameter, abs=1.0)
            assert overlap(found.mask, expected) > 0.995


@pytest.mark.parametrize("level", [0, 128, 255])
def test_blank_image_is_refused_with_the_reason(level: int) -> None:
    with pytest.raises(ValueError, match="no field of view: its grey levels span"):
        find_field_of_view(np.full((300, 400, 3), level, dtype=np.uint8))


def test_black_frame_with_sensor_noise_is_refused() -> None:
    noise = np.random.default_rng(0).integers(0, 4, (300, 400, 3)).astype(np.uint8)
    with pytest.raises(ValueError, match="no field of view"):
        find_field_of_view(noise)


@pytest.mark.parametrize(
    "image", [np.zeros((9, 9), np.uint8), np.zeros((9, 9, 4), np.uint8), np.zeros((9, 9, 3))]
)
def test_wrong_shape_or_type_is_named(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"must be \(H, W, 3\) uint8"):
        find_field_of_view(image)


def test_consensus_circle_ignores_sixty_percent_of_outliers() -> None:
    rng = np.random.default_rng(1)
    truth = Circle(40.0, -12.0, 90.0)
    on_it = truth.points(rng.uniform(-1.0, 1.5, 160)) + rng.normal(0, 0.2, (160, 2))
    elsewhere = rng.uniform(-60, 140, (240, 2))
    circle = find_circle(np.concatenate([on_it, elsewhere]), radius_range=(20, 200))
    assert circle is not None
    assert (circle.row, circle.column, circle.radius) == pytest.approx((40.0, -12.0, 90.0), abs=0.5)


def test_no_circle_comes_from_points_on_a_line() -> None:
    line = np.column_stack([np.arange(50.0), 2 * np.arange(50.0)])
    assert find_circle(line, radius_range=(5, 500)) is None


boxes_inside = st.tuples(st.integers(0, 7), st.integers(0, 8), st.integers(1, 6), st.integers(1, 6)).map(
    lambda t: (t[0], t[1], min(t[0] + t[2], 8), min(t[1] + t[3], 9))
)
arrays = st.sampled_from([(8, 9), (8, 9, 3)]).flatmap(lambda shape: hnp.arrays(np.uint8, shape))


@given(array=arrays, box=boxes_inside, fill=st.integers(0, 255))
def test_place_back_inverts_crop(array: np.ndarray, box: Box, fill: int) -> None:
    placed = place_back(crop(array, box), box, array.shape, fill)
    inside = np.zeros((8, 9), dtype=bool)
    inside[box[0] : box[2], box[1] : box[3]] = True
    assert placed.dtype == array.dtype
    assert placed.shape == array.shape
    assert np.array_equal(placed[inside], array[inside])
    assert (placed[~inside] == fill).all()


@given(array=arrays, start=st.tuples(*[st.integers(-12, 12)] * 2), size=st.tuples(*[st.integers(1, 20)] * 2))
def test_place_back_inverts_padded_crop(
    array: np.ndarray, start: tuple[int, int], size: tuple[int, int]
) -> None:
    box = (start[0], start[1], start[0] + size[0], start[1] + size[1])
    cut = crop_padded(array, box, fill=7)
    assert cut.shape[:2] == size
    placed = place_back(cut, box, array.shape, fill=3)
    rows, columns = np.mgrid[:8, :9]
    inside = (rows >= box[0]) & (rows < box[2]) & (columns >= box[1]) & (columns < box[3])
    assert np.array_equal(placed[inside], array[inside])
    assert (placed[~inside] == 3).all()
    assert (cut == 7).sum() >= cut.size - array[inside].size


def test_box_errors_name_what_is_allowed() -> None:
    array = np.zeros((8, 9))
    with pytest.raises(ValueError, match="exceeds the array"):
        crop(array, (0, 0, 9, 9))
    with pytest.raises(ValueError, match="exceeds the array"):
        crop(array, (-1, 0, 4, 4))
    with pytest.raises(ValueError, match="top < bottom"):
        crop_padded(array, (4, 0, 4, 4))
    with pytest.raises(ValueError, match="does not fill box"):
        place_back(np.zeros((3, 3)), (0, 0, 4, 4), (8, 9))


def test_square_box_centres_a_cut_circle() -> None:
    image, _ = draw_photograph()
    field = find_field_of_view(np.ascontiguousarray(image[90:420]))
    box = square_box(field)
    assert box[2] - box[0] == box[3] - box[1] == int(np.ceil(field.diameter))
    assert box[0] < 0
    assert box[2] > 330
    middle = ((box[0] + box[2] - 1) / 2, (box[1] + box[3] - 1) / 2)
    assert middle == pytest.approx(field.center, abs=1.0)


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


@pytest.mark.parametrize(
    "photograph",
    ["CHASE_DB1/images/Image_02L.jpg", "CHASE_DB1/images/Image_06R.jpg", "LES-AV/images/111.png",
     "LES-AV/images/586.png"],
)  # fmt: skip
def test_public_masks_are_matched(data_root: Path, photograph: str) -> None:
    path = data_root / photograph
    mask = np.asarray(Image.open(path.parents[1] / "mask" / f"{path.stem}_mask.png")) > 0
    field = find_field_of_view(read(path))
    assert field.shape == "circle"
    assert overlap(field.mask, mask) >= 0.98
    assert field.diameter == pytest.approx(max(np.ptp(np.argwhere(mask), axis=0) + 1), rel=0.02)


def test_idrid_circle_is_cut_at_top_and_bottom(data_root: Path) -> None:
    path = sorted((data_root / "IDRiD" / "grading" / "images").glob("*.jpg"))[30]
    field = find_field_of_view(read(path))
    assert field.shape == "circle"
    assert (field.box[0], field.box[2]) == (0, 2848)
    assert field.diameter == pytest.approx(3408, rel=0.005)
    assert field.completeness == pytest.approx(0.92, abs=0.01)


def test_optic_disc_of_a_borderless_photograph_is_not_taken_for_the_field(data_root: Path) -> None:
    image = read(data_root / "LES-AV" / "images" / "586.png")
    field = find_field_of_view(np.ascontiguousarray(image[300:1150, 380:1230]))
    assert field.shape == "full"
    assert field.mask.all()
