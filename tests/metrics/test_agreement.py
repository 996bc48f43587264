"""Intraclass correlations against the table of Shrout and Fleiss (1979) and against simulation."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from foveal.metrics.agreement import icc_agreement, icc_consistency

SHROUT_AND_FLEISS = np.array(
    [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], float
)


def test_published_example_has_its_published_coefficients_and_intervals() -> None:
    # 0.29 and 0.71 are in the paper, the intervals in the manual of R's psych package.
    assert icc_agreement(SHROUT_AND_FLEISS) == pytest.approx((0.29, 0.019, 0.76), abs=0.005)
    assert icc_consistency(SHROUT_AND_FLEISS) == pytest.approx((0.715, 0.34, 0.95), abs=0.005)


def test_offset_between_raters_lowers_agreement_and_leaves_consistency() -> None:
    offset = SHROUT_AND_FLEISS + 5 * np.arange(4)
    assert icc_agreement(offset).value < icc_agreement(SHROUT_AND_FLEISS).value
    assert icc_consistency(offset).value == pytest.approx(icc_consistency(SHROUT_AND_FLEISS).value)


def test_coefficient_is_the_share_of_variance_between_subjects() -> None:
    random = np.random.default_rng(0)
    ratings = 2 * random.normal(size=(20_000, 1)) + random.normal(size=(20_000, 2))
    for found in (icc_agreement(ratings), icc_consistency(ratings)):
        assert found.value == pytest.approx(0.8, abs=0.01)
        assert found.low < 0.8 < found.high
        assert found.high - found.low < 0.02


def test_equal_ratings_agree_wholly_and_constant_ones_say_nothing() -> None:
    same = np.repeat(np.arange(5.0)[:, None], 3, axis=1)
    assert icc_agreement(same) == icc_consistency(same) == (1.0, 1.0, 1.0)
    assert np.isnan(icc_agreement(np.ones((4, 2))).value)
    assert np.isnan(icc_consistency(np.ones((4, 2))).value)


@example(seed=8016, n=3, k=2)  # next to no degrees of freedom
@given(st.integers(0, 10_000), st.integers(3, 12), st.integers(2, 4))
def test_value_lies_in_its_interval_and_does_not_depend_on_the_unit(seed: int, n: int, k: int) -> None:
    ratings = np.random.default_rng(seed).normal(size=(n, k)) + np.arange(n)[:, None]
    for coefficient in (icc_agreement, icc_consistency):
        found = coefficient(ratings)
        assert found.low <= found.value <= found.high <= 1
        assert coefficient(3 - 7 * ratings) == pytest.approx(found)


@pytest.mark.parametrize(
    ("ratings", "message"),
    [
        (np.ones((3, 1)), "at least 2, got shape"),
        (np.ones(4), "at least 2, got shape"),
        (np.array([[1, np.nan], [2, 3]]), "finite"),
    ],
)
def test_wrong_ratings_are_refused(ratings: np.ndarray, message: str) -> None:
    for coefficient in (icc_agreement, icc_consistency):
        with pytest.raises(ValueError, match=message):
            coefficient(ratings)
