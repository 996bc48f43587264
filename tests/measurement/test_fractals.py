"""Dimensions of sets and measures where they are known, their order, and what must not change them."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage
from vessel_shapes import bar, tree

from foveal.measurement import fractals
from foveal.measurement.fractals import FractalDimensions, fractal_dimensions
from foveal.measurement.orientation import Orientation


def dimensions(found: FractalDimensions) -> list[float]:
    return [found.d0, found.d1, found.d2]


def line(length: int, degrees: float) -> np.ndarray:
    """A line of one pixel in its bounding box; 0 degrees points along a row."""
    angle = np.deg2rad(degrees)
    extent = np.rint(length * np.abs([np.sin(angle), np.cos(angle)])).astype(int)
    steps = np.linspace(0, 1, extent.max() + 1)[:, None]
    mask = np.zeros(extent + 1, bool)
    mask[tuple(np.rint(steps * extent).astype(int).T)] = True
    return mask


def carpet(generations: int) -> np.ndarray:
    """Sierpinski carpet of 3^generations pixels a side."""
    pattern = np.ones((3, 3), bool)
    pattern[1, 1] = False
    mask = np.ones((1, 1), bool)
    for _ in range(generations):
        mask = np.kron(mask, pattern)
    return mask


def cascade(shares: list[float], cell: int = 16) -> np.ndarray:
    """A mask whose 128 x 128 cells are as full as a multiplicative cascade of these quarters makes them."""
    density = np.ones((1, 1))
    for _ in range(7):
        density = np.kron(density, np.reshape(shares, (2, 2)))
    thresholds = np.random.default_rng(0).permutation(cell * cell).reshape(cell, cell) / cell**2
    return np.kron(density / density.max(), np.ones((cell, cell))) > np.tile(thresholds, density.shape)


@st.composite
def any_mask(draw: st.DrawFn) -> np.ndarray:
    """Noise, blobs, bars and trees, of any density, in a frame of any shape."""
    shape = draw(st.tuples(st.integers(16, 90), st.integers(16, 90)))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    noise = ndimage.gaussian_filter(rng.normal(size=shape), draw(st.sampled_from([0, 1, 3, 8])))
    mask = noise > np.quantile(noise, draw(st.sampled_from([0.05, 0.5, 0.9, 0.99])))
    if draw(st.booleans()):
        mask[rng.integers(shape[0])] = True
    if draw(st.booleans()):
        mask |= rng.random(shape) * np.arange(shape[1]) > 0.8 * shape[1]
    mask[[0, -1], [0, -1]] = True  # so that it is never too small
    return mask


@pytest.mark.parametrize("side", [16, 17, 37, 100, 243, 999])
def test_a_filled_square_has_two_whatever_its_size(side: int) -> None:
    found = fractal_dimensions(np.pad(np.ones((side, side), bool), ((3, 0), (5, 2))))
    assert dimensions(found) == pytest.approx([2, 2, 2], abs=1e-9)
    assert found.singularity_length == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("degrees", "tolerance"), [(0, 1e-9), (90, 1e-9), (45, 1e-3)])
def test_a_line_along_an_axis_or_the_diagonal_has_one(degrees: float, tolerance: float) -> None:
    assert dimensions(fractal_dimensions(line(300, degrees))) == pytest.approx([1, 1, 1], abs=tolerance)


@pytest.mark.parametrize("length", [300, 1000])
def test_a_line_at_any_angle_has_about_one(length: int) -> None:
    angles = np.arange(0, 90, 1.25)
    error = np.array([dimensions(fractal_dimensions(line(length, a))) for a in angles]) - 1
    assert np.abs(error).mean() < 0.04
    assert np.quantile(np.abs(error), 0.95) < 0.07
    assert np.abs(error).max() < 0.21


@pytest.mark.parametrize("generations", [4, 5, 6])
def test_a_sierpinski_carpet_has_its_dimension(generations: int) -> None:
    found = fractal_dimensions(carpet(generations))
    assert dimensions(found) == pytest.approx([np.log(8) / np.log(3)] * 3, abs=0.03)


@pytest.mark.parametrize("shares", [[0.2, 0.25, 0.25, 0.3], [0.35, 0.25, 0.15, 0.25]])
def test_a_multiplicative_cascade_has_its_dimensions_and_strengths(shares: list[float]) -> None:
    found = fractal_dimensions(cascade(shares))
    p = np.array(shares)
    expected = [2, -(p * np.log2(p)).sum(), -np.log2((p**2).sum())]
    assert dimensions(found) == pytest.approx(expected, abs=0.03)
    assert found.slopes[4] == pytest.approx(-np.average(np.log2(p), weights=p**10), abs=0.01)
    # The emptiest boxes do not count, hence the other end of the spectrum is drawn in.
    assert found.slopes[4] < found.slopes[3] < -np.average(np.log2(p), weights=p**-10.0)


def test_the_spectrum_of_an_uneven_cascade_is_wider() -> None:
    even, uneven = (
        fractal_dimensions(cascade(s)) for s in ([0.2, 0.25, 0.25, 0.3], [0.15, 0.25, 0.25, 0.35])
    )
    assert uneven.singularity_length > even.singularity_length + 0.2 > 0.2


@settings(max_examples=150, deadline=None)
@given(any_mask())
def test_dimensions_are_in_order_for_any_mask(mask: np.ndarray) -> None:
    found = fractal_dimensions(mask)
    assert 2 >= found.d0 >= found.d1 >= found.d2 >= 0
    assert (np.diff(found.entropies, axis=0) <= 1e-12).all()


def test_slopes_in_order_stay_as_they_are() -> None:
    found = fractal_dimensions(cascade([0.2, 0.25, 0.25, 0.3]))
    assert dimensions(found) == (-found.slopes[:3]).tolist()


def test_slopes_out_of_order_are_pooled_into_their_mean() -> None:
    found = fractal_dimensions(np.ones((300, 170), bool))
    slopes = -found.slopes[:3]
    assert slopes[0] < slopes[1] < slopes[2]
    assert dimensions(found) == pytest.approx([slopes.mean()] * 3)
    assert found.d0 == found.d1 == found.d2


def test_no_lines_in_order_fit_better() -> None:
    """The pooled lines are the constrained least squares: any other slopes in order leave more."""
    found = fractal_dimensions(np.ones((300, 170), bool))
    offsets = found.log2_sizes - found.log2_sizes.mean()
    observed = found.entropies - found.entropies.mean(axis=1, keepdims=True)

    def residual(candidate: np.ndarray) -> float:
        return float(((observed + np.outer(candidate, offsets)) ** 2).sum())

    least = residual(np.array(dimensions(found)))
    rng = np.random.default_rng(0)
    for scale in (0.3, 0.01):
        others = np.sort(found.d0 + rng.normal(scale=scale, size=(200, 3)))[:, ::-1]
        assert min(residual(other) for other in others) >= least


def test_fits_are_the_least_squares_lines() -> None:
    found = fractal_dimensions(cascade([0.2, 0.25, 0.25, 0.3]))
    observed = np.concatenate([found.entropies, found.strengths])
    for values, slope, fit in zip(observed, found.slopes, found.fits, strict=True):
        line_fitted = np.polyfit(found.log2_sizes, values, 1)
        assert slope == pytest.approx(line_fitted[0])
        assert fit == pytest.approx(np.polyval(line_fitted, found.log2_sizes))


@pytest.mark.parametrize("turn", [Orientation(*flags) for flags in product((False, True), repeat=3)])
@pytest.mark.parametrize("mask", [tree(6)[:350], line(301, 33), bar((20, 20), (90, 250), 5)])
def test_turns_mirrors_and_shifts_change_no_bit(mask: np.ndarray, turn: Orientation) -> None:
    expected = fractal_dimensions(mask)
    found = fractal_dimensions(np.pad(turn.apply(mask), ((1, 7), (4, 0))))
    assert dimensions(found) == dimensions(expected)
    assert found.singularity_length == expected.singularity_length
    np.testing.assert_array_equal(found.entropies, expected.entropies)
    np.testing.assert_array_equal(found.strengths, expected.strengths)


def with_specks(mask: np.ndarray, seed: int) -> np.ndarray:
    """Ten specks of 2 x 2 pixels inside the bounding box of the mask."""
    rng = np.random.default_rng(seed)
    row, column = np.nonzero(mask)
    mask = mask.copy()
    for _ in range(10):
        top = rng.integers(row.min(), row.max() - 1)
        left = rng.integers(column.min(), column.max() - 1)
        mask[top : top + 2, left : left + 2] = True
    return mask


def test_specks_inside_the_bounding_box_change_little() -> None:
    for seed in range(6):
        mask = tree(seed)
        expected, found = fractal_dimensions(mask), fractal_dimensions(with_specks(mask, seed))
        assert dimensions(found) == pytest.approx(dimensions(expected), abs=0.01)
        assert found.singularity_length == pytest.approx(expected.singularity_length, abs=0.03)


def test_the_emptiest_boxes_do_not_rule_the_singularity_length(monkeypatch: pytest.MonkeyPatch) -> None:
    def mean_change() -> float:
        changes = [
            fractal_dimensions(with_specks(tree(seed), seed)).singularity_length
            - fractal_dimensions(tree(seed)).singularity_length
            for seed in range(6)
        ]
        return float(np.abs(changes).mean())

    robust = mean_change()
    monkeypatch.setattr(fractals, "TRIMMED", 0.0)
    assert mean_change() > 5 * robust


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros((30, 30), bool), "the mask is empty"),
        (np.eye(15, 40, dtype=bool), r"the vessels extend over 15 pixels, too few for box counting \(16\)"),
        (np.ones((30, 30), np.uint8), r"bool array \(H, W\), got uint8 of shape \(30, 30\)"),
        (np.ones((30, 30, 1), bool), r"bool array \(H, W\), got bool of shape \(30, 30, 1\)"),
    ],
)
def test_masks_that_have_no_dimension_are_refused(mask: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fractal_dimensions(mask)


def real_masks(root: Path) -> list[np.ndarray]:
    paths = sorted((root / "LES-AV" / "av").glob("*.png"))[:3]
    paths += sorted((root / "CHASE_DB1" / "manual1").glob("*_1stHO.png"))[:3]
    if not paths:
        pytest.skip(f"neither LES-AV nor CHASE_DB1 is in {root}")
    masks = []
    for path in paths:
        with Image.open(path) as image:
            masks.append(np.array(image) > 0)
    return masks


@pytest.mark.parametrize("order", [0, 1])
def test_an_enlargement_of_real_vessels_keeps_their_dimensions(data_root: Path, order: int) -> None:
    for mask in real_masks(data_root):
        enlarged = ndimage.zoom(mask.astype(np.float32), 2, order=order) > 0.5
        expected, found = fractal_dimensions(mask), fractal_dimensions(enlarged)
        assert dimensions(found) == pytest.approx(dimensions(expected), abs=0.005)
        assert found.singularity_length == pytest.approx(expected.singularity_length, abs=0.02)


def test_a_stray_pixel_that_moves_the_grid_changes_little(data_root: Path) -> None:
    for mask in real_masks(data_root):
        padded = np.pad(mask, 1)
        moved = padded.copy()
        moved[np.flatnonzero(padded.any(axis=1))[0] - 1, np.flatnonzero(padded.any(axis=0))[0] - 1] = True
        expected, found = fractal_dimensions(mask), fractal_dimensions(moved)
        assert dimensions(found) == pytest.approx(dimensions(expected), abs=0.005)
        assert found.singularity_length == pytest.approx(expected.singularity_length, abs=0.02)


def test_real_vessels_have_a_plausible_spectrum(data_root: Path) -> None:
    for mask in real_masks(data_root):
        found = fractal_dimensions(mask)
        assert 1.4 < found.d2 < found.d1 < found.d0 < 1.7
        assert 0.05 < found.singularity_length < 0.6
