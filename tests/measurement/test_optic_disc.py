import numpy as np
import pytest
from scipy import ndimage

from foveal.measurement.optic_disc import find_disc
from foveal.scans.field_of_view import FieldOfView
from foveal.scans.synthetic import synthesize_eye

SIZE = 600


def circular_field(size: int = SIZE) -> FieldOfView:
    middle = (size - 1) / 2
    rows, columns = np.indices((size, size))
    mask = np.hypot(rows - middle, columns - middle) <= 0.48 * size
    used = np.flatnonzero(mask.any(axis=0))
    box = (int(used[0]), int(used[0]), int(used[-1]) + 1, int(used[-1]) + 1)
    return FieldOfView(mask, (middle, middle), 0.96 * size, "circle", box, 1.0)


def ellipse(center: tuple[float, float], axes: tuple[float, float], size: int = SIZE) -> np.ndarray:
    rows, columns = np.indices((size, size))
    return ((rows - center[0]) / axes[0]) ** 2 + ((columns - center[1]) / axes[1]) ** 2 <= 1


def dice(first: np.ndarray, second: np.ndarray) -> float:
    return 2 * (first & second).sum() / (first.sum() + second.sum())


FIELD = circular_field()
DISC = ellipse((280, 330), (48, 42))


def as_map(mask: np.ndarray, height: float = 1.0) -> np.ndarray:
    return (height * mask).astype(np.float32)


def test_a_clean_mask_comes_back():
    found = find_disc(as_map(DISC), FIELD)
    assert dice(found.mask, DISC) >= 0.99
    assert found.disc.center == pytest.approx((280, 330), abs=0.3)
    assert found.disc.radius == pytest.approx(np.sqrt(48 * 42), rel=0.01)
    assert found.confidence > 0.95


@pytest.mark.parametrize("seed", range(4))
def test_discs_of_synthetic_eyes_come_back(seed):
    eye = synthesize_eye(seed, size=512, centered="disc" if seed % 2 else "macula")
    found = find_disc(as_map(eye.disc.mask), eye.field)
    assert dice(found.mask, eye.disc.mask) >= 0.99
    assert found.disc.center == pytest.approx(eye.disc.center, abs=0.5)


def test_vessels_and_holes_do_not_dent_the_margin():
    rows, columns = np.indices(DISC.shape)
    vessels = (np.abs(columns - 322) < 4) | (np.abs(rows - columns + 45) < 5)
    hole = ellipse((285, 338), (14, 14))
    found = find_disc(as_map(DISC & ~vessels & ~hole), FIELD)
    assert dice(found.mask, DISC) >= 0.98


def test_false_islands_are_not_the_disc_but_rivals_lower_confidence():
    clean = find_disc(as_map(DISC), FIELD)
    specks = as_map(DISC) + as_map(ellipse((120, 200), (9, 9)) | ellipse((420, 400), (3, 130)))
    assert find_disc(np.minimum(specks, 1), FIELD).disc.center == pytest.approx(clean.disc.center, abs=0.5)
    rival = find_disc(np.maximum(as_map(DISC), as_map(ellipse((300, 130), (40, 40)), 0.9)), FIELD)
    assert rival.disc.center == pytest.approx(clean.disc.center, abs=0.5)
    assert rival.confidence < 0.7 * clean.confidence


def test_a_blob_that_runs_on_along_the_vessels_is_still_a_disc():
    rows, columns = np.indices(DISC.shape)
    beyond = (np.abs(rows - 280) < 70) & (np.abs(columns - 330) < 40 - 0.1 * np.abs(rows - 280))
    found = find_disc(as_map(DISC | beyond), FIELD)
    assert found.disc.center == pytest.approx((280, 330), abs=1)
    assert found.confidence > 0.9


def test_vessels_tell_the_disc_from_a_larger_bright_spot():
    spot = ellipse((300, 130), (60, 60))
    seen = np.maximum(as_map(DISC), as_map(spot))
    rows, columns = np.indices(DISC.shape)
    vessels = (np.abs(columns - 322) < 5) & (rows < 500)
    assert find_disc(seen, FIELD).disc.center == pytest.approx((300, 130), abs=1)
    told = find_disc(seen, FIELD, vessels=vessels)
    assert told.disc.center == pytest.approx((280, 330), abs=1)
    nothing = find_disc(seen, FIELD, vessels=np.zeros_like(vessels))
    assert nothing.disc == find_disc(seen, FIELD).disc
    assert nothing.confidence < told.confidence


def test_vessels_change_nothing_where_one_spot_alone_is_seen():
    nothing, everything = np.zeros_like(DISC), np.ones_like(DISC)
    alone = find_disc(as_map(DISC), FIELD)
    for vessels in (nothing, everything):
        found = find_disc(as_map(DISC), FIELD, vessels=vessels)
        assert (found.disc, found.confidence) == (alone.disc, alone.confidence)


def test_a_disc_cut_by_the_field_goes_on_outside_of_it():
    whole = ellipse((300, 585), (45, 45))
    cut = whole & FIELD.mask
    assert cut.sum() < 0.6 * np.pi * 45**2
    found = find_disc(as_map(cut), FIELD)
    assert found.disc.center == pytest.approx((300, 585), abs=4)
    assert found.disc.radius == pytest.approx(45, rel=0.06)
    assert not (found.mask & ~FIELD.mask).any()
    assert dice(found.mask, cut) >= 0.97
    assert found.confidence < 1


def test_a_faint_disc_is_found_with_less_confidence():
    soft = ndimage.gaussian_filter(as_map(DISC, 0.35), 4)
    found = find_disc(soft, FIELD)
    assert dice(found.mask, DISC) > 0.9
    assert found.confidence < 0.4


@pytest.mark.parametrize(
    "mask",
    [
        np.zeros_like(DISC),
        ellipse((300, 300), (10, 10)),
        ellipse((300, 300), (200, 200)),
        ellipse((300, 300), (20, 110)),
    ],
    ids=["nothing", "speck", "half the field", "streak"],
)
def test_nothing_plausible_is_no_disc(mask):
    assert find_disc(as_map(mask), FIELD) is None


@pytest.mark.filterwarnings("error")
def test_a_spot_of_one_pixel_is_no_disc():
    # On the small copy a blob of one pixel, which has no axes.
    spot = np.zeros((SIZE, SIZE), np.float32)
    spot[SIZE // 2 : SIZE // 2 + 2, SIZE // 2 : SIZE // 2 + 2] = 1
    assert find_disc(spot, circular_field()) is None


def test_a_map_below_the_faintest_is_no_disc():
    assert find_disc(as_map(DISC, 0.1), FIELD) is None


def test_wrong_maps_are_named():
    with pytest.raises(ValueError, match="disc_probability must be a float array"):
        find_disc(DISC, FIELD)
    with pytest.raises(ValueError, match="field's shape"):
        find_disc(as_map(DISC)[:-1], FIELD)
    with pytest.raises(ValueError, match="its values go from 0 to 2"):
        find_disc(as_map(DISC, 2), FIELD)
    with pytest.raises(ValueError, match="its values go from nan"):
        find_disc(np.full(DISC.shape, np.nan, np.float32), FIELD)
    with pytest.raises(ValueError, match="vessels must be bool of shape"):
        find_disc(as_map(DISC), FIELD, vessels=as_map(DISC))
