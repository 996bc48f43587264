import math
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveal.screening.charts import Cohort, histogram, number, strip


def test_missing_and_infinite_values_are_not_in_the_cohort():
    assert Cohort.of([3.0, None, math.nan, math.inf, 1.0]).values.tolist() == [1.0, 3.0]


def test_place_is_a_rank_in_a_small_cohort_and_a_percentile_in_a_large_one():
    assert Cohort.of([1.0, 2.0, 3.0]).place(2.0) == "2 of 3"
    assert Cohort.of(np.arange(100.0).tolist()).place(24.5) == "percentile 25"
    assert Cohort.of([1.0]).place(1.0) == "no other photograph to compare with"


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=50), st.floats(-1e6, 1e6))
def test_percentiles_of_a_value_from_below_and_above_add_up(values: list[float], value: float):
    cohort, mirrored = Cohort.of(values), Cohort.of([-v for v in values])
    assert cohort.percentile(value) + mirrored.percentile(-value) == pytest.approx(100)


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=50), st.floats(-2e6, 2e6))
def test_the_dot_of_a_strip_lies_inside_its_picture(values: list[float], value: float):
    root = ElementTree.fromstring(strip(Cohort.of(values), value, label="a < b"))
    dot = root.find("circle")
    assert dot is not None
    assert 0 <= float(dot.attrib["cx"]) <= 180


def test_histogram_bars_count_every_value():
    values = [1.0, 1.1, 5.0, 9.0, 9.1, 9.2]
    root = ElementTree.fromstring(histogram(Cohort.of(values), label="calibre"))
    heights = [float(bar.attrib["height"]) for bar in root.iter("rect")]
    assert sum(heights) / max(heights) == pytest.approx(len(values) / 3, abs=0.02)


def test_a_cohort_of_one_has_no_chart():
    assert histogram(Cohort.of([1.0]), label="") == strip(Cohort.of([1.0]), 1.0, label="") == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.123456, "0.1235"),
        (12345.6, "12346"),
        (7, "7"),
        (None, ""),
        (0.0, "0"),
        (1.6, "1.600"),
        (30697.2, "30697"),
        (1234.5, "1234"),
        (1.5e-7, "1.500e-07"),
        (443.0, "443"),
    ],
)
def test_numbers_are_written_for_readers(value: float | None, text: str):
    assert number(value) == text
