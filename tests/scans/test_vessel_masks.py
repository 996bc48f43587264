"""Masks of other tools: every coding, soft edges, JPEG, and what is no mask at all."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from foveal.scans.area_masks import field_of_mask, read_area_mask, read_field_mask, whole_frame
from foveal.scans.scan import ScanError
from foveal.scans.stored_samples import read_samples
from foveal.scans.synthetic import synthesize_eye
from foveal.scans.vessel_masks import read_vessel_mask

EYE = synthesize_eye(5, size=256)
LABELS = EYE.artery_vein.astype(np.uint8)  # 0 background, 1 artery, 2 vein, 3 both
COLOURS = np.array([[0, 0, 0], [255, 0, 0], [0, 0, 255], [0, 255, 0]], np.uint8)
LABEL_PALETTE = [*COLOURS.ravel(), *[0] * 756]


def save(path: Path, values: np.ndarray, **options: object) -> Path:
    """Write values as the ending says."""
    if path.suffix == ".npy":
        np.save(path, values)
    elif path.suffix == ".tif":
        tifffile.imwrite(path, values, **options)
    else:
        Image.fromarray(values).save(path, **options)
    return path


def save_palette(path: Path, indices: np.ndarray, palette: list[int]) -> Path:
    picture = Image.fromarray(indices, "P")
    picture.putpalette(palette)
    picture.save(path)
    return path


def coded(bytes_of: np.ndarray) -> np.ndarray:
    """A mask that JPEG has gone over at usual quality."""
    buffer = BytesIO()
    Image.fromarray(bytes_of).save(buffer, "JPEG", quality=85)
    return np.asarray(Image.open(buffer))


def test_the_labels_of_the_synthetic_eye_hold_all_kinds():
    assert set(np.unique(LABELS)) == {0, 1, 2, 3}


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.npy", "a.bmp"])
@pytest.mark.parametrize(
    "values",
    [
        LABELS > 0,
        (LABELS > 0).astype(np.uint8),
        (LABELS > 0) * np.uint8(255),
        np.repeat(((LABELS > 0) * np.uint8(255))[..., None], 3, axis=2),
    ],
    ids=["bool", "0 and 1", "0 and 255", "grey as colour"],
)
def test_two_levels_are_binary_in_every_format(tmp_path: Path, name: str, values: np.ndarray):
    mask = read_vessel_mask(save(tmp_path / name, values))
    assert mask.coding == "binary"
    assert mask.arteries is mask.veins is None
    np.testing.assert_array_equal(mask.vessels, LABELS > 0)
    assert set(np.unique(mask.vessels.view(np.uint8))) == {0, 1}  # compiled loops rely on these bytes


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_grey_levels_are_probabilities_of_the_format_s_range(tmp_path: Path, dtype: type):
    top = 1.0 if dtype == np.float32 else np.iinfo(dtype).max
    probability = np.random.default_rng(0).uniform(0, 0.04, LABELS.shape)
    probability[LABELS == 1], probability[LABELS == 2], probability[LABELS == 3] = 0.9, 0.6, 0.3
    probability[0] = np.linspace(0, 0.04, LABELS.shape[1])
    path = save(tmp_path / "p.tif", (probability * top).astype(dtype))
    assert read_vessel_mask(path).coding == "probability"
    for threshold, wanted in ((0.5, (1, 2)), (0.8, (1,)), (0.2, (1, 2, 3))):
        mask = read_vessel_mask(path, threshold=threshold)
        np.testing.assert_array_equal(mask.vessels, np.isin(LABELS, wanted))


@pytest.mark.parametrize("how", ["grey", "palette", "float"])
def test_label_3_is_both_kinds_unless_foveal_s_own_coding_is_asked_for(tmp_path: Path, how: str):
    if how == "palette":
        path = save_palette(tmp_path / "av.png", LABELS, LABEL_PALETTE)
    else:
        path = save(tmp_path / "av.npy", LABELS.astype(np.float32 if how == "float" else np.uint8))
    mask = read_vessel_mask(path)
    assert mask.coding == "av-labels"
    assert mask.arteries is not None
    assert mask.veins is not None
    np.testing.assert_array_equal(mask.arteries, (LABELS == 1) | (LABELS == 3))
    np.testing.assert_array_equal(mask.veins, (LABELS == 2) | (LABELS == 3))
    assert "av-foveal" in mask.notes[0]
    own = read_vessel_mask(path, coding="av-foveal")
    np.testing.assert_array_equal(own.arteries, LABELS == 1)
    np.testing.assert_array_equal(own.vessels, LABELS > 0)


def test_a_mask_of_a_foveal_report_shows_vessels_of_unknown_kind(tmp_path: Path):
    mask = read_vessel_mask(save(tmp_path / "own.png", (LABELS > 0) * np.uint8(3)))
    assert mask.coding == "av-foveal"
    assert mask.arteries is None
    np.testing.assert_array_equal(mask.vessels, LABELS > 0)


def test_a_palette_that_says_the_opposite_of_the_labels_is_read_by_colour(tmp_path: Path):
    swapped = [*COLOURS[[0, 2, 1, 3]].ravel(), *[0] * 756]  # 1 is blue, 2 is red
    mask = read_vessel_mask(save_palette(tmp_path / "av.png", LABELS, swapped))
    assert mask.coding == "av-colour"
    np.testing.assert_array_equal(mask.veins, (LABELS == 1) | (LABELS == 3))


def test_colours_red_blue_green_and_white(tmp_path: Path):
    colours = COLOURS[LABELS]
    unknown = EYE.vessels & (np.arange(256) < 90)
    colours[unknown] = 255
    mask = read_vessel_mask(save(tmp_path / "rite.png", colours))
    assert mask.coding == "av-colour"
    np.testing.assert_array_equal(mask.vessels, LABELS > 0)
    np.testing.assert_array_equal(mask.arteries, np.isin(LABELS, (1, 3)) & ~unknown)
    np.testing.assert_array_equal(mask.veins, np.isin(LABELS, (2, 3)) & ~unknown)
    assert mask.notes == ()


def test_jpeg_colours_are_read_by_the_nearest_and_told(tmp_path: Path):
    large = np.repeat(np.repeat(LABELS, 3, axis=0), 3, axis=1)
    mask = read_vessel_mask(save(tmp_path / "av.png", coded(COLOURS[large])))
    assert mask.coding == "av-colour"
    assert mask.arteries is not None
    wrong = mask.arteries ^ np.isin(large, (1, 3))
    assert wrong.sum() < 0.1 * np.isin(large, (1, 3)).sum()
    assert "between two colours" in mask.notes[0]


def test_one_bright_colour_is_binary(tmp_path: Path):
    mask = read_vessel_mask(save(tmp_path / "g.png", COLOURS[3] * (LABELS > 0)[..., None]))
    assert mask.coding == "binary"
    np.testing.assert_array_equal(mask.vessels, LABELS > 0)


def test_transparent_pixels_are_background(tmp_path: Path):
    white = np.full((*LABELS.shape, 4), 255, np.uint8)
    white[..., 3] = (LABELS > 0) * 255
    np.testing.assert_array_equal(read_vessel_mask(save(tmp_path / "t.png", white)).vessels, LABELS > 0)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (EYE.image, "looks like a photograph: .* colours"),
        (EYE.image[..., 1], "looks like a photograph: .* grey levels"),
        (np.zeros((90, 90), np.uint8), "holds no vessel"),
        (np.full((90, 90), 255, np.uint8), "100 % of its pixels would be vessel"),
        (~(LABELS > 0), "is it inverted"),
        ((LABELS * 2).astype(np.uint8), "levels 0, 2, 4, 6, which no coding has"),
        ((LABELS * 85).astype(np.uint8), "levels 0, 85, 170, 255, which no coding has"),
        ((LABELS > 0)[..., None] * np.array([255, 255, 0], np.uint8), "yellow or cyan"),
        (np.zeros((20, 20), np.uint8), "at least 64 a side"),
    ],
)
def test_what_is_no_mask_is_refused(tmp_path: Path, values: np.ndarray, said: str):
    with pytest.raises(ScanError, match=said):
        read_vessel_mask(save(tmp_path / "x.png", values))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.full((90, 90), np.nan), "NaN"),
        (np.linspace(-5, 5, 8100).reshape(90, 90), "from -5 to 5"),
        (np.zeros((3, 90, 90, 2)), r"array is \(3, 90, 90, 2\)"),
        (np.array([[None] * 90] * 90), "damaged"),
    ],
)
def test_arrays_that_hold_no_probabilities_are_refused(tmp_path: Path, values: np.ndarray, said: str):
    np.save(tmp_path / "x.npy", values, allow_pickle=True)
    with pytest.raises(ScanError, match=said):
        read_vessel_mask(tmp_path / "x.npy")


def test_files_that_cannot_be_read_are_refused(tmp_path: Path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("no picture")
    whole = save(tmp_path / "whole.png", LABELS).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    tifffile.imwrite(tmp_path / "pages.tif", np.zeros((2, 90, 90), np.uint8), photometric="minisblack")
    for name, said in {
        "empty": "is empty",
        "text": "is no mask",
        "cut": "damaged",
        "pages": "2 pages",
        "absent": "cannot be read",
    }.items():
        path = tmp_path / (f"{name}.tif" if name == "pages" else f"{name}.png")
        with pytest.raises(ScanError, match=said):
            read_samples(path)


def test_a_coding_that_the_content_does_not_have_is_refused(tmp_path: Path):
    grey, colour = save(tmp_path / "g.png", LABELS * np.uint8(85)), save(tmp_path / "c.png", COLOURS[LABELS])
    with pytest.raises(ScanError, match="coding av-labels"):
        read_vessel_mask(grey, coding="av-labels")
    with pytest.raises(ScanError, match="coding av-colour"):
        read_vessel_mask(grey, coding="av-colour")
    with pytest.raises(ScanError, match="coding probability"):
        read_vessel_mask(colour, coding="probability")
    with pytest.raises(ValueError, match="allowed: auto, binary"):
        read_vessel_mask(grey, coding="rgb")  # type: ignore[arg-type]
    np.testing.assert_array_equal(read_vessel_mask(colour, coding="binary").vessels, LABELS > 0)


def test_a_field_mask_keeps_its_pixels_and_finds_its_circle(tmp_path: Path):
    path = save(tmp_path / "f.png", EYE.field.mask)
    field = field_of_mask(read_field_mask(path))
    np.testing.assert_array_equal(field.mask, EYE.field.mask)
    assert field.shape == "circle"
    assert abs(field.diameter - EYE.field.diameter) < 2
    assert field_of_mask(np.ones((70, 80), bool)).shape == whole_frame((70, 80)).shape == "full"


@pytest.mark.parametrize("levels", [(0, 1, 2), (255, 128, 0), (0, 255, 255), (0, 128, 255)])
def test_disc_and_cup_together_are_the_disc(tmp_path: Path, levels: tuple[int, int, int]):
    disc, cup = EYE.disc.mask, EYE.disc.cup
    values = np.array(levels, np.uint8)[disc.astype(int) + (disc & cup)]
    np.testing.assert_array_equal(read_area_mask(save(tmp_path / "d.png", values)), disc)


def test_an_area_over_a_quarter_of_the_frame_is_no_disc(tmp_path: Path):
    with pytest.raises(ScanError, match="at most 25 %"):
        read_area_mask(save(tmp_path / "d.png", EYE.field.mask))


def test_masks_of_public_data_sets_are_recognised(data_root: Path):
    binary = read_vessel_mask(data_root / "CHASE_DB1" / "manual1" / "Image_01L_1stHO.png")
    labels = read_vessel_mask(data_root / "LES-AV" / "av" / "12.png")
    assert (binary.coding, labels.coding) == ("binary", "av-labels")
    with pytest.raises(ScanError, match="looks like a photograph"):
        read_vessel_mask(data_root / "CHASE_DB1" / "images" / "Image_01L.jpg")
