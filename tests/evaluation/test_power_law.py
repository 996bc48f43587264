"""Fits of a loss against a size."""

import numpy as np
import pytest

from foveal.evaluation.power_law import fit_power_law

SIZES = np.array([16.0, 64, 256, 1024, 4096])


@pytest.mark.parametrize(
    ("a", "b", "c"), [(3.0, 0.5, 0.4), (10.0, 1.2, 1.0), (2.0, 0.15, 0.05), (5.0, 0.3, 0.0)]
)
def test_a_power_law_with_a_floor_is_recovered(a: float, b: float, c: float) -> None:
    law = fit_power_law(SIZES, c + a * SIZES**-b)
    assert (law.scale, law.exponent, law.floor) == pytest.approx((a, b, c), rel=0.05, abs=1e-3)
    assert law.better == "power"
    np.testing.assert_allclose(law.predict(SIZES), c + a * SIZES**-b, rtol=1e-4)


def test_it_is_recovered_from_noisy_seeds_with_its_exponent_in_the_interval() -> None:
    noise = 1 + 0.005 * np.random.default_rng(0).standard_normal((5, 5))
    law = fit_power_law(SIZES, (0.4 + 3 * SIZES**-0.5)[:, None] * noise)
    assert law.exponent == pytest.approx(0.5, rel=0.05)
    low, high = law.exponent_interval
    assert low < 0.5 < high
    assert law.slope_interval[1] < 0


def test_a_straight_line_in_the_logarithm_is_told_as_such() -> None:
    law = fit_power_law(SIZES, 3 - 0.2 * np.log2(SIZES))
    assert law.slope == pytest.approx(-0.2)
    assert law.intercept == pytest.approx(3)
    assert law.better == "line"


def test_a_loss_that_does_not_fall_has_no_scale() -> None:
    law = fit_power_law(SIZES, np.log2(SIZES))
    assert law.scale == 0 or law.exponent == 0
    assert law.floor >= 0


@pytest.mark.parametrize(
    ("sizes", "losses", "says"),
    [
        ([1, 2, 3], [1, 2, 3], "3 sizes; a power law with a floor needs 4"),
        ([1, 2, 3, 3], [1, 2, 3, 4], "different numbers above 0"),
        ([1, 2, 3, 4], [1, 2, 3], "losses of shape"),
        ([1, 2, 3, 4], [1, 2, 3, float("nan")], "NaN"),
    ],
)
def test_what_cannot_be_fitted_is_refused(sizes: list[float], losses: list[float], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        fit_power_law(np.array(sizes), np.array(losses))
