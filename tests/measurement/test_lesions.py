"""Lesions are found where the maps say, counted once, and measured in the right place."""

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from scipy import ndimage
from vessel_shapes import full_field

from foveal.measurement.eye import Eye
from foveal.measurement.landmarks import Disc, Landmarks
from foveal.measurement.lesion_columns import lesion_columns, measure_lesions
from foveal.measurement.lesion_quadrants import QUADRANTS, LesionQuadrants
from foveal.measurement.lesion_summary import (
    MANY,
    MORE,
    NO_LESION,
    ONLY_MICROANEURYSMS,
    RULE_VALUES,
    rule_columns,
    rule_summary,
)
from foveal.measurement.lesions import LEAST_DIAMETER, Lesions, find_lesions, find_lesions_reaching
from foveal.scans.field_of_view import FieldOfView, find_field_of_view
from foveal.scans.reading import read_scan
from foveal.scans.structure_datasets import IDRID_CODES
from foveal.scans.synthetic import LESION_KINDS, SyntheticEye, synthesize_eye

SHAPE = (200, 300)
EIGHT = np.ones((3, 3))
RIGHT_EYE = Landmarks(Disc((100.25, 200.5), 12.0), (100.25, 140.25), "R")  # the fovea lies left of the disc


def maps(**squares: list[tuple[int, int, int]]) -> np.ndarray:
    """(4, H, W) probability 0.9 in squares (row, column, side), given by kind."""
    probability = np.zeros((len(LESION_KINDS), *SHAPE), np.float32)
    for kind, places in squares.items():
        for row, column, side in places:
            probability[LESION_KINDS.index(kind), row : row + side, column : column + side] = 0.9
    return probability


def found(probability: np.ndarray, field: FieldOfView | None = None, **options) -> Lesions:
    return find_lesions(probability, LESION_KINDS, field or full_field(SHAPE), **options)


def eye_of(landmarks: Landmarks = RIGHT_EYE, shape: tuple[int, int] = SHAPE, **known) -> Eye:
    return Eye(full_field(shape), np.zeros(shape, bool), landmarks=landmarks, **known)


def least_area(kind: str, field: FieldOfView) -> float:
    return np.pi / 4 * (LEAST_DIAMETER[kind] * field.diameter) ** 2


def only(kind: str) -> list[str]:
    """Names of the columns of a kind."""
    return [column.name for column in lesion_columns() if column.name.startswith(f"{kind}_")]


def test_a_lesion_is_described_exactly():
    probability = maps(haemorrhages=[(10, 20, 5)])
    probability[1, 12, 22] = 1.0
    (lesion,) = found(probability).each()
    assert lesion.kind == "haemorrhages"
    assert lesion.center == (12.0, 22.0)
    assert lesion.area == 25
    assert lesion.box == (10, 20, 15, 25)
    assert lesion.peak == 1.0
    assert lesion.confidence == pytest.approx((24 * 0.9 + 1) / 25)


def test_spread_over_views_lowers_the_confidence():
    probability = maps(haemorrhages=[(10, 20, 5)])
    spread = np.full_like(probability, 0.2)
    assert found(probability, spread=spread).confidences == pytest.approx([0.5])
    assert found(probability, spread=0 * spread).confidences == pytest.approx([0.9])


def test_a_lesion_extends_below_the_threshold_that_it_must_reach():
    probability = np.zeros((4, *SHAPE), np.float32)
    probability[2, 50:60, 50:60] = 0.3  # not found: it never reaches the threshold
    probability[2, 90:100, 50:60] = 0.3
    probability[2, 95, 55] = 0.5
    lesions = found(probability)
    assert lesions.areas.tolist() == [100]
    assert lesions.boxes.tolist() == [[90, 50, 100, 60]]
    assert len(found(probability, thresholds=0.51)) == 0
    assert len(found(probability, thresholds={**dict.fromkeys(LESION_KINDS, 0.9), "hard_exudates": 0.2})) == 2


def test_lesions_smaller_than_credible_do_not_count():
    shape = (1000, 1000)
    field = full_field(shape)
    least = {kind: int(np.ceil(least_area(kind, field))) for kind in LESION_KINDS}
    assert least["soft_exudates"] == 29
    probability = np.zeros((4, *shape), np.float32)
    for number, area in enumerate(least.values()):
        probability[number, 100 * number, :area] = 1
        probability[number, 100 * number + 50, : area - 1] = 1
    assert found(probability, field).areas.tolist() == list(least.values())


def test_a_pixel_counts_for_the_more_probable_kind():
    probability = maps(microaneurysms=[(50, 50, 4)], haemorrhages=[(48, 48, 10)])
    probability[0] *= 0.8
    assert [(lesion.kind, lesion.area) for lesion in found(probability).each()] == [("haemorrhages", 100)]
    probability[1] *= 0.7
    both = [(lesion.kind, lesion.area) for lesion in found(probability).each()]
    assert both == [("microaneurysms", 16), ("haemorrhages", 84)]


def test_overlap_is_decided_relative_to_each_kinds_threshold():
    probability = maps(microaneurysms=[(50, 50, 6)], haemorrhages=[(50, 50, 6)])
    probability[1] *= 0.6
    thresholds = {**dict.fromkeys(LESION_KINDS, 0.5), "microaneurysms": 0.9, "haemorrhages": 0.3}
    assert [lesion.kind for lesion in found(probability, thresholds=thresholds).each()] == ["haemorrhages"]
    assert [lesion.kind for lesion in found(probability).each()] == ["microaneurysms"]


def test_nothing_counts_outside_the_field_or_where_excluded():
    probability = maps(hard_exudates=[(10, 10, 5), (100, 100, 5), (150, 250, 6)])
    field = full_field(SHAPE)
    inside = field.mask.copy()
    inside[:30] = False
    excluded = np.zeros(SHAPE, bool)
    excluded[150:153, 250:256] = True
    field = FieldOfView(inside, field.center, field.diameter, "circle", (30, 0, *SHAPE), 1.0)
    assert found(probability, field, exclude=excluded).areas.tolist() == [25, 18]


@settings(deadline=None, max_examples=150)
@given(arrays(np.float32, (2, 9, 11), elements=st.sampled_from([0, 0.2, 0.3, 0.4, 0.6, 0.7, 1])))
def test_parts_are_those_of_labelling_the_whole_image(probability: np.ndarray):
    field = full_field((9, 11))
    for kind in (0, 1):
        lesions = find_lesions(probability[kind : kind + 1], LESION_KINDS[kind : kind + 1], field)
        labels, count = ndimage.label(probability[kind] >= 0.25, EIGHT)
        numbers = np.arange(1, count + 1)
        peaks = np.array(ndimage.maximum(probability[kind], labels, numbers)) if count else np.zeros(0)
        kept = numbers[peaks >= 0.5]
        places = ndimage.find_objects(labels)
        boxes = [[s.start for s in places[i - 1]] + [s.stop for s in places[i - 1]] for i in kept]
        assert lesions.boxes.tolist() == boxes
        assert lesions.areas.tolist() == [int((labels == i).sum()) for i in kept]
        assert np.allclose(
            lesions.centers, np.reshape(ndimage.center_of_mass(labels > 0, labels, kept), (-1, 2))
        )
        assert np.array_equal(lesions.mask(LESION_KINDS[kind]), np.isin(labels, kept))
        assert lesions.peaks.tolist() == peaks[kept - 1].tolist()


@settings(deadline=None, max_examples=100)
@given(arrays(np.float32, (4, 8, 9), elements=st.sampled_from([0, 0.2, 0.3, 0.4, 0.6, 0.7, 1])))
def test_every_pixel_has_one_kind_and_every_lesion_its_peak(probability: np.ndarray):
    lesions = find_lesions(probability, LESION_KINDS, full_field((8, 9)))
    assert len(np.unique(lesions.pixels)) == len(lesions.pixels) == lesions.areas.sum()
    assert np.sum([lesions.mask(kind) for kind in LESION_KINDS], axis=0).max(initial=0) <= 1
    assert (lesions.peaks >= 0.5).all()
    strongest = probability.max(axis=0).ravel()
    for lesion, kind in enumerate(lesions.kinds):
        pixels = lesions.pixels[lesions.owners == lesion]
        assert (probability[kind].ravel()[pixels] >= 0.25).all()
        assert probability[kind].ravel()[pixels].max() == lesions.peaks[lesion] <= strongest[pixels].max()
    reached = (probability.max(axis=0) >= 0.5).ravel()
    top = probability.argmax(axis=0).ravel()
    for pixel in np.flatnonzero(
        reached
    ):  # a pixel that reaches the threshold is always found, as its best kind
        assert lesions.kinds[lesions.owners[lesions.pixels == pixel]].tolist() == [top[pixel]]


def test_empty_maps_give_no_lesions_and_reasons():
    lesions = found(maps())
    assert len(lesions) == 0
    assert lesions.each() == []
    assert not lesions.mask("haemorrhages").any()
    measures = measure_lesions(lesions, eye_of())
    assert list(measures) == [column.name for column in lesion_columns()]
    for kind in LESION_KINDS:
        assert (
            measures[f"{kind}_count"] == measures[f"{kind}_area_px2"] == measures[f"{kind}_near_fovea"] == 0
        )
        for name in ("fovea_distance_field", "fovea_distance_mm", "confidence"):
            assert np.isnan(measures[f"{kind}_{name}"])
            assert measures.missing_reasons[f"{kind}_{name}"] == "no such lesion was found"


def test_measures_are_exact():
    probability = maps(hard_exudates=[(98, 150, 5), (20, 280, 10)], haemorrhages=[(150, 100, 4)])
    measures = measure_lesions(found(probability), eye_of(spacing_mm=(0.01, 0.02)))
    assert not {name for name in measures.missing_reasons if name.startswith("hard_exudates")}
    expected = {
        "hard_exudates_count": 2,
        "hard_exudates_area_px2": 125,
        "hard_exudates_area_mm2": 125 * 0.01 * 0.02,
        "hard_exudates_area_fraction": 125 / (200 * 300),
        "hard_exudates_confidence": 0.9,
        "hard_exudates_fovea_distance_field": np.hypot(0.25, 9.75) / 300,
        "hard_exudates_fovea_distance_mm": np.hypot(0.25 * 0.01, 9.75 * 0.02),
        "hard_exudates_near_fovea": 1,
        "hard_exudates_count_superior_temporal": 1,
        "hard_exudates_count_superior_nasal": 1,
        "hard_exudates_count_inferior_temporal": 0,
        "hard_exudates_area_fraction_superior_temporal": 15 / 60000,  # the square lies on the border
        "hard_exudates_area_fraction_inferior_temporal": 10 / 60000,
        "hard_exudates_area_fraction_superior_nasal": 100 / 60000,
        "haemorrhages_count_inferior_temporal": 1,
        "haemorrhages_near_fovea": 0,
    }
    assert {name: measures[name] for name in expected} == pytest.approx(expected)


def test_millimetres_follow_from_the_disc_without_a_spacing():
    probability = maps(hard_exudates=[(98, 150, 5)])
    measures = measure_lesions(found(probability), eye_of())
    assert measures["hard_exudates_area_mm2"] == pytest.approx(25 * (1.8 / 24) ** 2)
    assert measures["hard_exudates_fovea_distance_mm"] == pytest.approx(np.hypot(0.25, 9.75) * 1.8 / 24)


def test_what_needs_a_landmark_says_so_without_it():
    lesions = found(maps(hard_exudates=[(98, 150, 5)]))
    nothing = measure_lesions(lesions, eye_of(Landmarks()))
    assert nothing["hard_exudates_count"] == 1
    assert nothing.missing_reasons["hard_exudates_near_fovea"] == "the fovea is not known"
    assert nothing.missing_reasons["hard_exudates_fovea_distance_field"] == "the fovea is not known"
    assert "how large a pixel is" in nothing.missing_reasons["hard_exudates_area_mm2"]
    assert "disc" in nothing.missing_reasons["hard_exudates_count_superior_nasal"]

    only_fovea = measure_lesions(lesions, eye_of(Landmarks(fovea=(100.25, 140.25), laterality="R")))
    assert only_fovea["hard_exudates_fovea_distance_field"] > 0
    assert only_fovea.missing_reasons["hard_exudates_near_fovea"] == (
        "the scan does not say how large a pixel is, and the optic disc is not known"
    )
    assert only_fovea.missing_reasons["hard_exudates_count_superior_nasal"] == "the optic disc is not known"

    only_disc = measure_lesions(lesions, eye_of(Landmarks(RIGHT_EYE.disc, laterality="R")))
    assert only_disc["hard_exudates_count_superior_temporal"] == 1
    outside = measure_lesions(lesions, eye_of(Landmarks(RIGHT_EYE.disc, (100.0, -20.0))))
    assert outside.missing_reasons["hard_exudates_near_fovea"] == "the fovea lies outside the field"
    hidden = measure_lesions(lesions, eye_of(Landmarks(Disc((100.0, 320.0), 12.0), (100.0, 250.0))))
    assert hidden.missing_reasons["hard_exudates_count_superior_nasal"] == (
        "none of the superior nasal quadrant is in the field"
    )


def test_one_disc_diameter_is_taken_from_the_scale_where_the_disc_is_unknown():
    lesions = found(maps(hard_exudates=[(98, 150, 5)]))  # 9.75 columns from the fovea
    for spacing, near in ((0.18, 1), (0.19, 0)):  # 1.8 mm are 10 or 9.5 pixels
        eye = eye_of(Landmarks(fovea=RIGHT_EYE.fovea), spacing_mm=(spacing, spacing))
        assert measure_lesions(lesions, eye)["hard_exudates_near_fovea"] == near


def test_a_kind_that_was_not_looked_for_is_missing_not_none():
    probability = maps(haemorrhages=[(50, 50, 6)])
    lesions = find_lesions(probability[1:3], LESION_KINDS[1:3], full_field(SHAPE))
    measures = measure_lesions(lesions, eye_of())
    assert measures["haemorrhages_count"] == 1
    for name in only("microaneurysms"):
        assert np.isnan(measures[name])
        assert measures.missing_reasons[name] == "microaneurysms were not looked for"
    assert rule_summary(lesions, eye_of()).value == MORE  # whatever else there is
    without = find_lesions(0 * probability[1:3], LESION_KINDS[1:3], full_field(SHAPE))
    value, basis = rule_summary(without, eye_of())
    assert value is None
    assert "Withheld" in basis
    assert "microaneurysms, soft exudates" in basis


@pytest.fixture(scope="module")
def diseased() -> SyntheticEye:
    return synthesize_eye(5, size=512, centered="macula", lesions=3)


def truth_maps(eye: SyntheticEye) -> np.ndarray:
    return np.stack([eye.lesions[kind] for kind in LESION_KINDS]).astype(np.float32)


def measured_eye(eye: SyntheticEye) -> Eye:
    disc = Disc(eye.disc.center, eye.disc.radius)
    return Eye(eye.field, eye.vessels, landmarks=Landmarks(disc, eye.fovea, eye.laterality))


def test_lesions_of_a_synthetic_eye_are_those_of_its_truth(diseased: SyntheticEye):
    for kind, probability in zip(LESION_KINDS, truth_maps(diseased), strict=True):
        lesions = find_lesions(probability[None], (kind,), diseased.field)
        labels, _ = ndimage.label(diseased.lesions[kind], EIGHT)
        areas = np.bincount(labels.ravel())[1:]
        assert lesions.areas.tolist() == areas[areas >= least_area(kind, diseased.field)].tolist()
        assert len(lesions) > 3
        assert measure_lesions(lesions, measured_eye(diseased))[f"{kind}_count"] == len(lesions)


def test_quadrants_part_the_lesions_and_the_field(diseased: SyntheticEye):
    eye = measured_eye(diseased)
    lesions = find_lesions(truth_maps(diseased), LESION_KINDS, diseased.field)
    measures = measure_lesions(lesions, eye)
    for kind in LESION_KINDS:
        for what in ("count", "area_fraction"):
            parts = [measures[f"{kind}_{what}_{quadrant}"] for quadrant in QUADRANTS]
            assert sum(parts) == pytest.approx(measures[f"{kind}_{what}"], rel=1e-12)
    visible = LesionQuadrants(lesions, eye).visible
    assert sum(visible.values()) == pytest.approx(1)
    assert visible["superior_temporal"] > visible["superior_nasal"]  # centred on the macula


def mirrored(eye: Eye) -> Eye:
    """As the other eye would look: columns turned round."""
    last = eye.field.mask.shape[1] - 1
    known = eye.landmarks
    (row, column), (top, left) = known.known_fovea, known.known_disc.center
    center, box = eye.field.center, eye.field.box
    field = FieldOfView(
        eye.field.mask[:, ::-1],
        (center[0], last - center[1]),
        eye.field.diameter,
        eye.field.shape,
        (box[0], last + 1 - box[3], box[2], last + 1 - box[1]),
        eye.field.completeness,
    )
    disc = Disc((top, last - left), known.known_disc.radius)
    other = Landmarks(disc, (row, last - column), "L" if known.side == "R" else "R")
    return Eye(field, np.zeros(field.mask.shape, bool), landmarks=other)


def test_a_mirrored_eye_has_the_same_measures_as_the_other_eye(diseased: SyntheticEye):
    eye, probability = measured_eye(diseased), truth_maps(diseased)
    measures = measure_lesions(find_lesions(probability, LESION_KINDS, eye.field), eye)
    other = mirrored(eye)
    turned = find_lesions(np.ascontiguousarray(probability[:, :, ::-1]), LESION_KINDS, other.field)
    assert dict(measure_lesions(turned, other)) == pytest.approx(dict(measures), rel=1e-9)
    assert rule_summary(turned, other) == rule_summary(
        find_lesions(probability, LESION_KINDS, eye.field), eye
    )


def test_the_wrong_side_swaps_nasal_and_temporal():
    lesions = found(maps(haemorrhages=[(40, 40, 5), (150, 250, 5), (160, 270, 5)]))
    right = measure_lesions(lesions, eye_of(Landmarks(RIGHT_EYE.disc, laterality="R")))
    left = measure_lesions(lesions, eye_of(Landmarks(RIGHT_EYE.disc, laterality="L")))
    for vertical in ("superior", "inferior"):
        for one, other in (("nasal", "temporal"), ("temporal", "nasal")):
            names = (f"haemorrhages_count_{vertical}_{side}" for side in (one, other))
            assert right[next(names)] == left[next(names)]
    assert right["haemorrhages_count_inferior_nasal"] == 2


def test_twice_the_resolution_keeps_counts_shares_and_distances():
    probability = maps(hard_exudates=[(98, 150, 5), (20, 280, 10)], haemorrhages=[(150, 100, 4)])
    once = measure_lesions(found(probability), eye_of())
    shape = (2 * SHAPE[0], 2 * SHAPE[1])
    finer = find_lesions(probability.repeat(2, 1).repeat(2, 2), LESION_KINDS, full_field(shape))
    (top, left), (row, column) = RIGHT_EYE.known_disc.center, RIGHT_EYE.known_fovea
    twice = Landmarks(Disc((2 * top + 0.5, 2 * left + 0.5), 24.0), (2 * row + 0.5, 2 * column + 0.5), "R")
    doubled = measure_lesions(finer, eye_of(twice, shape))
    assert doubled["hard_exudates_area_px2"] == 4 * once["hard_exudates_area_px2"]
    for name, value in once.items():
        if "_count" in name or "near" in name or "confidence" in name:
            assert doubled[name] == pytest.approx(value, nan_ok=True)
        if "distance_field" in name or name.endswith("mm2") or name.endswith("area_fraction"):
            assert doubled[name] == pytest.approx(value, abs=0.5 / 300, nan_ok=True)


def test_the_summary_follows_the_steps_of_the_scale():
    eye = eye_of()
    cases = {
        NO_LESION: maps(),
        ONLY_MICROANEURYSMS: maps(microaneurysms=[(50, 50, 2)]),
        MORE: maps(microaneurysms=[(50, 50, 2)], soft_exudates=[(90, 90, 6)]),
    }
    for value, probability in cases.items():
        summary = rule_summary(found(probability), eye, quality="good")
        assert summary.value == value
        assert "Not a medical device; not a diagnosis." in summary.basis
        assert "new vessels" in summary.basis
    assert "1 microaneurysms, 0 haemorrhages" in rule_summary(found(cases[ONLY_MICROANEURYSMS]), eye).basis


def haemorrhages_by_quadrant(counts: tuple[int, int, int, int]) -> np.ndarray:
    """Haemorrhages about the disc of `RIGHT_EYE` in the order of `QUADRANTS`."""
    corners = ((5, 5), (105, 5), (5, 205), (105, 205))
    places = [
        (row + 5 * (number // 8), column + 5 * (number % 8), 2)
        for count, (row, column) in zip(counts, corners, strict=True)
        for number in range(count)
    ]
    return maps(haemorrhages=places)


@pytest.mark.parametrize(
    ("counts", "value"),
    [((21, 21, 21, 21), MANY), ((21, 21, 20, 21), MORE), ((60, 60, 60, 0), MORE)],
)
def test_many_haemorrhages_must_lie_in_each_quadrant(counts: tuple[int, int, int, int], value: str):
    lesions = found(haemorrhages_by_quadrant(counts))
    summary = rule_summary(lesions, eye_of())
    assert summary.value == value
    listed = ", ".join(f"{words} {n}" for words, n in zip(QUADRANTS.values(), counts, strict=True))
    assert listed in summary.basis


def test_many_haemorrhages_are_not_known_without_landmarks():
    lesions = found(haemorrhages_by_quadrant((25, 25, 25, 25)))
    value, basis = rule_summary(lesions, eye_of(Landmarks()))
    assert value == MORE
    assert "not known, since" in basis
    few = found(haemorrhages_by_quadrant((20, 20, 20, 20)))
    assert "too few" in rule_summary(few, eye_of(Landmarks())).basis


def test_the_summary_says_what_makes_it_unsound():
    lesions = found(maps(microaneurysms=[(50, 50, 2)]))
    assert rule_summary(lesions, eye_of(), quality="reject").value is None
    assert "only usable" in rule_summary(lesions, eye_of(), quality="usable").basis
    field = full_field(SHAPE)
    cut = FieldOfView(field.mask, field.center, field.diameter, "circle", field.box, 0.6)
    assert "Only 60 %" in rule_summary(lesions, Eye(cut, np.zeros(SHAPE, bool))).basis
    hidden = eye_of(Landmarks(Disc((100.0, 290.0), 12.0), (100.0, 230.0)))
    many = found(haemorrhages_by_quadrant((25, 25, 25, 25)))
    assert "hardly in view: superior nasal, inferior nasal" in rule_summary(many, hidden).basis
    with pytest.raises(ValueError, match="'good', 'usable', 'reject'"):
        rule_summary(lesions, eye_of(), quality="fine")  # type: ignore[arg-type]


def test_columns_are_described_and_never_named_a_grade():
    columns = [*lesion_columns(), *rule_columns()]
    assert len({column.name for column in columns}) == len(columns)
    assert len({(column.title, column.unit) for column in columns}) == len(columns)
    for column in columns:
        assert len(column.description) > 40
        assert "{" not in column.description
    for column in rule_columns():
        assert "research only" in column.title
        assert not {"grade", "diagnosis"} & set(column.title.lower().split())
    assert not any("grade" in value for value in RULE_VALUES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": ("haemorrhages",)}, "probability must be a float array of shape"),
        ({"names": ("bleeding", *LESION_KINDS[1:])}, "unknown kind of lesion 'bleeding'"),
        ({"names": (*LESION_KINDS[:3], LESION_KINDS[0])}, "different kinds"),
        ({"thresholds": 0.0}, "must lie in"),
        ({"thresholds": {"haemorrhages": 0.5}}, "thresholds lack 'microaneurysms'"),
        ({"exclude": np.zeros(SHAPE, np.uint8)}, "exclude must be a bool array"),
        ({"spread": np.zeros(SHAPE, np.float32)}, "spread must be a float array"),
        ({"probability": np.full((4, *SHAPE), 3, np.float32)}, r"must lie in \[0, 1\], found 3"),
    ],
)
def test_wrong_arguments_are_refused(change: dict, message: str):
    arguments = {"probability": maps(), "names": LESION_KINDS, "field": full_field(SHAPE), **change}
    with pytest.raises(ValueError, match=message):
        find_lesions(**arguments)


def test_lesions_of_the_pixels_that_reach_a_level_are_those_of_whole_maps():
    rng = np.random.default_rng(3)
    probability = ndimage.gaussian_filter(rng.random((4, *SHAPE)), (0, 2, 2)).astype(np.float32)
    probability = (probability - probability.min()) / np.ptp(probability)

    def reaching(name: str, level: float) -> tuple[np.ndarray, np.ndarray]:
        layer = probability[LESION_KINDS.index(name)].ravel()
        places = np.flatnonzero(layer >= np.float32(level))
        return places, layer[places]

    field = full_field(SHAPE)
    whole = find_lesions(probability, LESION_KINDS, field, thresholds=0.7)
    assert len(whole) > 5
    few = find_lesions_reaching(reaching, LESION_KINDS, field, thresholds=0.7)
    for name in ("kinds", "centers", "areas", "boxes", "peaks", "confidences", "pixels"):
        np.testing.assert_array_equal(getattr(few, name), getattr(whole, name))


def test_lesions_and_eye_must_be_of_one_photograph():
    with pytest.raises(ValueError, match="the eye's field"):
        measure_lesions(found(maps()), eye_of(shape=(50, 60)))


def test_a_kind_that_was_not_looked_for_has_no_mask():
    lesions = find_lesions(maps()[:1], LESION_KINDS[:1], full_field(SHAPE))
    with pytest.raises(ValueError, match="unknown kind of lesion 'haemorrhages'"):
        lesions.mask("haemorrhages")


def idrid_masks(root: Path, name: str, shape: tuple[int, int]) -> np.ndarray:
    masks = np.zeros((len(LESION_KINDS), *shape), bool)
    for mask, kind in zip(masks, LESION_KINDS, strict=True):
        file = root / IDRID_CODES[kind] / f"{name}_{IDRID_CODES[kind]}.png"
        if file.is_file():
            with Image.open(file) as picture:
                mask[:] = np.asarray(picture) > 0
    return masks


@pytest.mark.parametrize("name", ["IDRiD_01", "IDRiD_09", "IDRiD_48"])
def test_idrids_lesions_are_reproduced_from_their_masks(data_root: Path, name: str):
    root = data_root / "IDRiD" / "segmentation"
    field = find_field_of_view(read_scan(root / "images" / f"{name}.jpg").image)
    masks = idrid_masks(root, name, field.mask.shape)
    for kind, mask in zip(LESION_KINDS, masks, strict=True):
        lesions = find_lesions(mask[None].astype(np.float32), (kind,), field)
        labels, _ = ndimage.label(mask & field.mask, EIGHT)
        areas = np.bincount(labels.ravel())[1:]
        assert lesions.areas.tolist() == areas[areas >= least_area(kind, field)].tolist()
        assert np.mean(areas >= least_area(kind, field)) >= 0.9 if len(areas) else not len(lesions)


def test_idrids_graders_saw_more_than_microaneurysms_where_the_masks_hold_them(data_root: Path):
    """Whoever has outlined haemorrhages or exudates is graded 2 or higher."""
    root = data_root / "IDRiD"
    rows = csv.DictReader((root / "grading" / "labels.csv").open())
    grades = {
        Path(row["file"]).stem: int(row["retinopathy_grade"])
        for row in rows
        if row["file"].startswith("segmentation/")
    }
    assert len(grades) == 42
    found: Counter[tuple[str | None, bool]] = Counter()
    for name in sorted(grades)[::7]:
        masks = idrid_masks(root / "segmentation", name, (2848, 4288))
        field = full_field((2848, 4288))
        lesions = find_lesions(masks.astype(np.float32), LESION_KINDS, field)
        eye = Eye(field, np.zeros(field.mask.shape, bool))
        found[rule_summary(lesions, eye).value, grades[name] >= 2] += 1
    assert found == {(MORE, True): 6}
