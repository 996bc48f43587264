import numpy as np
import pytest
from scipy import ndimage

from foveal.kernels.chamfer import chamfer_distance
from foveal.scans.synthetic import synthesize_eye
from foveal.segmentation.soft_labels import sauna_label


@pytest.fixture(scope="module")
def mask():
    return synthesize_eye(3, size=256).vessels


def test_modes_differ_only_where_they_should(mask):
    h, c, hh = (sauna_label(mask, mode=mode) for mode in ("h", "c", "hh"))
    assert np.array_equal(h[~mask], c[~mask])
    assert not np.array_equal(h[mask], c[mask])
    assert (c[mask] <= h[mask] + 1e-6).all()
    assert np.array_equal(h[mask], hh[mask])
    # "hh": background with no vessel in the window is certain.
    m = ndimage.distance_transform_edt(mask).max()
    far = ndimage.distance_transform_edt(~mask) > 2 * (2 * m + 2)
    assert far.any()
    assert (hh[far] == -1).all()


def test_chamfer_labels_are_close_to_exact_ones(mask):
    exact, fast = sauna_label(mask), sauna_label(mask, metric="chamfer5")
    assert np.abs(exact - fast).mean() < 0.02
    assert np.array_equal(exact > 0, fast > 0)


def test_chamfer_distance_is_within_two_percent_of_euclid(mask):
    point = np.ones((101, 101), dtype=bool)
    point[50, 50] = False
    for image in (point, ~mask, mask):
        exact = ndimage.distance_transform_edt(image)
        ratio = chamfer_distance(image)[exact > 0] / exact[exact > 0]
        assert ratio.min() > 0.97
        assert ratio.max() < 1.02
    assert np.isinf(chamfer_distance(np.ones((3, 4), dtype=bool))).all()


def test_label_of_a_part_is_that_of_the_whole_when_the_half_width_is_given(mask):
    whole = sauna_label(mask)
    m = float(ndimage.distance_transform_edt(mask).max())
    part = sauna_label(mask[100:200, 100:200], half_width=m)
    border = int(3 * m) + 2
    inner = np.s_[border:-border, border:-border]
    assert np.abs(part[inner] - whole[100:200, 100:200][inner]).max() < 1e-5


def test_bad_masks_are_named():
    with pytest.raises(ValueError, match=r"two dimensions"):
        sauna_label(np.zeros((3, 4, 4)))
    with pytest.raises(ValueError, match="NaN"):
        sauna_label(np.full((4, 4), np.nan))
    with pytest.raises(ValueError, match="unknown mode"):
        sauna_label(np.zeros((4, 4)), mode="x")
    with pytest.raises(ValueError, match="half_width"):
        sauna_label(np.eye(5), half_width=0)
