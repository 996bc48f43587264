import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from foveal.measurement.landmarks import Disc, Landmarks, MissingError, disc_of_mask, enclosing_disc


def disk(center: tuple[float, float], radius: float, size: int = 120) -> np.ndarray:
    row, column = np.mgrid[:size, :size] - np.array(center)[:, None, None]
    return np.hypot(row, column) <= radius


def test_disc_of_a_mask_has_its_centre_and_area():
    mask = disk((50.0, 61.0), 23)
    mask[5:9, 5:9] = True  # a second, smaller part is not the disc
    found = disc_of_mask(mask)
    assert found.center == pytest.approx((50, 61))
    assert found.radius == pytest.approx(math.sqrt(disk((50.0, 61.0), 23).sum() / math.pi))
    assert enclosing_disc(mask).radius == pytest.approx(23, abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_enclosing_circle_is_the_smallest(seed):
    rng = np.random.default_rng(seed)
    mask = np.zeros((40, 40), bool)
    row, column = 20, 20
    for _ in range(60):
        mask[row, column] = True
        row = int(np.clip(row + rng.integers(-1, 2), 0, 39))
        column = int(np.clip(column + rng.integers(-1, 2), 0, 39))
    if mask.sum() < 2:
        return
    points = np.argwhere(mask)
    found = enclosing_disc(mask)
    assert np.hypot(*(points - found.center).T).max() == pytest.approx(found.radius, rel=1e-9)
    best = minimize(
        lambda at: np.hypot(*(points - at).T).max(),
        points.mean(0),
        method="Nelder-Mead",
        options={"xatol": 1e-7},
    )
    assert found.radius <= best.fun + 1e-6


def test_laterality_follows_from_disc_and_fovea():
    right = Landmarks(Disc((100, 300), 30), (110, 150))
    left = Landmarks(Disc((100, 150), 30), (110, 300))
    assert (right.side, left.side) == ("R", "L")
    assert right.temporal_direction[1] < 0 < left.temporal_direction[1]
    assert Landmarks(laterality="R").temporal_direction == (0.0, -1.0)


def test_what_is_not_known_is_missing_with_the_reason():
    with pytest.raises(MissingError, match="optic disc is not known"):
        _ = Landmarks(fovea=(1, 2)).disc_fovea_distance
    with pytest.raises(MissingError, match="fovea is not known"):
        _ = Landmarks(Disc((1, 2), 3)).disc_fovea_distance
    with pytest.raises(MissingError, match="within the optic disc"):
        _ = Landmarks(Disc((100, 100), 30), (110, 110)).disc_fovea_distance
    with pytest.raises(MissingError, match="neither the laterality"):
        _ = Landmarks(Disc((1, 2), 3)).side


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Disc((1, 2), 0), "radius above 0"),
        (lambda: Disc((math.nan, 2), 1), "finite"),
        (lambda: Landmarks(fovea=(math.inf, 1)), "fovea must be a finite"),
        (lambda: Landmarks(laterality="left"), "laterality must be 'L', 'R' or None, got 'left'"),
        (lambda: disc_of_mask(np.zeros((5, 5), bool)), "disc mask is empty"),
        (lambda: disc_of_mask(np.zeros((5, 5))), "threshold it first"),
        (lambda: enclosing_disc(np.eye(1, 5, dtype=bool)), "no two pixels"),
    ],
)
def test_wrong_landmarks_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
