"""The synthetic eye agrees with its own ground truth."""

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt, map_coordinates

from foveal.scans.field_of_view import find_field_of_view
from foveal.scans.synthetic import LESION_KINDS, SyntheticEye, synthesize_eye


@pytest.fixture(scope="module")
def eye() -> SyntheticEye:
    return synthesize_eye(3, size=768, lesions=3)


def pieces(eye: SyntheticEye, kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Starts, ends and (start, end) widths of all straight pieces of one kind."""
    own = [s for s in eye.segments if s.kind == kind]
    return (
        np.concatenate([s.points[:-1] for s in own]),
        np.concatenate([s.points[1:] for s in own]),
        np.concatenate([np.stack([s.widths[:-1], s.widths[1:]], 1) for s in own]),
    )


def test_same_seed_gives_the_same_eye(eye: SyntheticEye) -> None:
    again = synthesize_eye(3, size=768, lesions=3)
    np.testing.assert_array_equal(again.image, eye.image)
    np.testing.assert_array_equal(again.artery_vein, eye.artery_vein)
    assert all((again.lesions[kind] == eye.lesions[kind]).all() for kind in LESION_KINDS)


def test_another_seed_gives_another_eye(eye: SyntheticEye) -> None:
    other = synthesize_eye(4, size=768, lesions=3, laterality=eye.laterality)
    assert (other.vessels != eye.vessels).mean() > 0.03


@pytest.mark.parametrize("seed", [0, 5])
def test_the_same_seed_at_another_size_is_the_same_eye(seed: int) -> None:
    small, large = synthesize_eye(seed, size=384), synthesize_eye(seed, size=768)
    assert len(small.segments) == len(large.segments)
    for one, two in zip(small.segments, large.segments, strict=True):
        np.testing.assert_allclose((two.points - 383.5) / 2, one.points - 191.5, atol=1e-6)
        np.testing.assert_allclose(two.widths / 2, one.widths, rtol=1e-9)
        assert (one.kind, one.parent) == (two.kind, two.parent)
    halved = large.image.reshape(384, 2, 384, 2, 3).mean((1, 3))
    assert np.abs(halved - small.image).mean() < 2.5


def test_mask_is_exactly_the_pixels_within_half_a_caliber(eye: SyntheticEye) -> None:
    rng = np.random.default_rng(0)
    near = np.argwhere((distance_transform_edt(~eye.vessels) < 4) & eye.field.mask)
    pixels = near[rng.choice(len(near), 600, replace=False)]
    for code, kind in ((1, "artery"), (2, "vein")):
        starts, ends, widths = pieces(eye, kind)
        along = ends - starts
        offset = pixels[:, None] - starts[None]
        place = np.clip((offset * along).sum(-1) / (along**2).sum(-1), 0, 1)
        distance = np.linalg.norm(offset - place[..., None] * along, axis=-1)
        radius = (widths[:, 0] + place * (widths[:, 1] - widths[:, 0])) / 2
        expected = (distance <= radius).any(1)
        assert 0.05 < expected.mean() < 0.95
        np.testing.assert_array_equal((eye.artery_vein[tuple(pixels.T)] & code) > 0, expected)


def test_vessels_are_where_the_artery_vein_map_is_not_zero(eye: SyntheticEye) -> None:
    np.testing.assert_array_equal(eye.vessels, eye.artery_vein > 0)
    assert set(np.unique(eye.artery_vein)) == {0, 1, 2, 3}
    assert not (eye.vessels & ~eye.field.mask).any()
    crossing = (eye.artery_vein == 3).sum() / eye.vessels.sum()
    assert 0 < crossing < 0.12


def test_distance_transform_recovers_the_caliber_of_wide_vessels() -> None:
    eye = synthesize_eye(1, size=1024)
    depth = {
        "artery": distance_transform_edt((eye.artery_vein & 1) > 0),
        "vein": distance_transform_edt((eye.artery_vein & 2) > 0),
    }
    errors = []
    for segment in eye.segments:
        if segment.widths.min() < 4 or len(segment.points) < 9:
            continue
        middle = slice(4, -4)  # away from the branch points, where two vessels are one
        at = np.rint(segment.points[middle]).astype(int)
        errors.append(depth[segment.kind][tuple(at.T)] - segment.widths[middle] / 2)
    found = np.concatenate(errors)
    assert len(found) > 100
    assert abs(np.median(found)) < 0.35
    assert (found > -0.75).all()
    assert (found < 0.75).mean() > 0.9


def test_length_is_the_sum_of_the_polyline(eye: SyntheticEye) -> None:
    for segment in eye.segments:
        steps = np.linalg.norm(segment.points[1:] - segment.points[:-1], axis=1)
        assert segment.length == pytest.approx(steps.sum())
        assert len(segment.points) == len(segment.widths) >= 2


def test_calibers_obey_murrays_law_at_every_branch_point(eye: SyntheticEye) -> None:
    assert len(eye.branch_points) > 60
    for branching in eye.branch_points:
        parent, (wide, thin) = eye.segments[branching.parent], (eye.segments[d] for d in branching.daughters)
        assert wide.widths[0] ** 3 + thin.widths[0] ** 3 == pytest.approx(parent.widths[-1] ** 3)
        assert wide.widths[0] >= thin.widths[0]
        assert parent.kind == wide.kind == thin.kind


def test_daughters_leave_at_realistic_angles(eye: SyntheticEye) -> None:
    between = np.array([b.angle for b in eye.branch_points])
    assert 65 < np.median(between) < 95
    assert (between > 50).all()
    assert (between < 115).all()
    wide, thin = np.array([b.angles for b in eye.branch_points]).T
    assert wide.mean() < thin.mean()
    np.testing.assert_allclose(wide + thin, between, atol=1e-6)


def test_parents_precede_their_daughters_and_join_them(eye: SyntheticEye) -> None:
    for number, segment in enumerate(eye.segments):
        if segment.parent is not None:
            assert segment.parent < number
            np.testing.assert_allclose(segment.points[0], eye.segments[segment.parent].points[-1], atol=1e-9)


def test_calibers_are_those_of_a_human_eye(eye: SyntheticEye) -> None:
    widths = {k: np.concatenate([s.widths for s in eye.segments if s.kind == k]) for k in ("artery", "vein")}
    widest = eye.field.diameter / widths["vein"].max()
    assert 95 < widest < 135
    assert 0.6 < widths["artery"].max() / widths["vein"].max() < 0.85
    assert eye.field.diameter / min(w.min() for w in widths.values()) < 1100


def test_avascular_zone_is_free_and_the_macula_is_fed() -> None:
    for seed in range(3):
        eye = synthesize_eye(seed, size=256)
        points = np.concatenate([s.points for s in eye.segments])
        nearest = np.linalg.norm(points - eye.fovea, axis=1).min() / eye.pixels_per_degree
        assert 0.75 < nearest < 3.5


@pytest.mark.parametrize("seed", [1, 312])
def test_veins_run_round_the_macula_above_and_below(seed: int) -> None:
    eye = synthesize_eye(seed, size=256, laterality="L")
    veins = [s for s in eye.segments if s.kind == "vein"]
    points = (np.concatenate([s.points for s in veins]) - eye.fovea) / eye.pixels_per_degree
    wide = np.concatenate([s.widths for s in veins]) > 0.1 * eye.pixels_per_degree
    temporal = wide & (points[:, 1] > 14)
    assert (temporal & (points[:, 0] < -3)).any()
    assert (temporal & (points[:, 0] > 3)).any()


def test_field_is_the_one_that_is_found_in_the_picture(eye: SyntheticEye) -> None:
    found = find_field_of_view(eye.image)
    assert found.center == pytest.approx(eye.field.center, abs=2)
    assert found.diameter == pytest.approx(eye.field.diameter, rel=0.01)
    assert (found.mask != eye.field.mask).mean() < 0.01


@pytest.mark.parametrize("field_angle", [30.0, 45.0, 60.0])
@pytest.mark.parametrize("laterality", ["L", "R"])
def test_disc_is_inside_the_field_on_the_nasal_side(laterality: str, field_angle: float) -> None:
    eye = synthesize_eye(7, size=256, laterality=laterality, field_angle=field_angle)
    assert eye.laterality == laterality
    assert eye.field.mask[eye.disc.mask].all()
    assert eye.disc.mask.sum() == pytest.approx(np.pi * eye.disc.radius**2, rel=0.03)
    nasal = -1 if laterality == "L" else 1  # in the left eye's photograph the nose is to the left
    assert nasal * (eye.disc.center[1] - eye.fovea[1]) > 12 * eye.pixels_per_degree
    assert eye.field.diameter == pytest.approx(field_angle * eye.pixels_per_degree)


def test_lateralities_are_mirror_images() -> None:
    left, right = (synthesize_eye(11, size=256, laterality=side, lesions=2) for side in ("L", "R"))
    np.testing.assert_array_equal(left.artery_vein, right.artery_vein[:, ::-1])
    np.testing.assert_allclose(left.image.astype(int), right.image[:, ::-1], atol=2)


def test_disc_centred_eye_has_the_disc_in_the_middle() -> None:
    eye = synthesize_eye(2, size=256, centered="disc")
    assert eye.disc.center == pytest.approx((127.5, 127.5))
    assert np.hypot(*np.subtract(eye.fovea, 127.5)) < eye.field.diameter / 2


def test_cup_is_inside_the_disc_and_has_its_ratio(eye: SyntheticEye) -> None:
    assert eye.disc.mask[eye.disc.cup].all()
    ratio = np.ptp(np.flatnonzero(eye.disc.cup.any(1))) / np.ptp(np.flatnonzero(eye.disc.mask.any(1)))
    assert ratio == pytest.approx(eye.disc.cup_ratio, abs=0.03)


def test_lesions_avoid_vessels_and_disc(eye: SyntheticEye) -> None:
    forbidden = eye.vessels | eye.disc.mask | ~eye.field.mask
    for kind in LESION_KINDS:
        assert eye.lesions[kind].any(), kind
        assert not (eye.lesions[kind] & forbidden).any(), kind


def test_bleeding_is_darker_and_exudate_brighter_than_its_surroundings() -> None:
    sound, sick = synthesize_eye(3, size=512), synthesize_eye(3, size=512, lesions=3)
    change = sick.image[..., 1].astype(int) - sound.image[..., 1]
    bright = sick.lesions["hard_exudates"] | sick.lesions["soft_exudates"]
    dark = sick.lesions["haemorrhages"] | sick.lesions["microaneurysms"]
    assert change[dark & ~bright].mean() < -8
    assert change[bright & ~dark].mean() > 15
    np.testing.assert_array_equal(sick.vessels, sound.vessels)


def test_lesions_grow_with_severity() -> None:
    area = []
    for severity in range(5):
        eye = synthesize_eye(0, size=256, lesions=severity)
        area.append(sum(int(mask.sum()) for mask in eye.lesions.values()))
        present = {kind for kind, mask in eye.lesions.items() if mask.any()}
        assert severity != 1 or present == {"microaneurysms"}
    assert area[0] == 0
    assert area == sorted(area)


def test_vessels_are_darker_than_their_surroundings_and_veins_darker_than_arteries(eye: SyntheticEye) -> None:
    green = eye.image[..., 1].astype(float)
    beside = (distance_transform_edt(~eye.vessels) > 6) & eye.field.mask & ~eye.disc.mask
    contrast = {}
    for kind in ("artery", "vein"):
        lines = [s.points for s in eye.segments if s.kind == kind and s.widths.max() > 4]
        on = map_coordinates(green, np.concatenate(lines).T, order=1)
        contrast[kind] = np.median(green[beside]) - np.median(on)
    assert contrast["vein"] > contrast["artery"] > 8


def test_border_is_black_and_field_is_lit(eye: SyntheticEye) -> None:
    assert (eye.image[~eye.field.mask] == 0).all()
    inner = distance_transform_edt(eye.field.mask) > 8
    assert eye.image[inner].max(1).min() > 20


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"size": 32}, "size"),
        ({"laterality": "left"}, "laterality"),
        ({"centered": "fovea"}, "centered"),
        ({"field_angle": 90.0}, "field_angle"),
        ({"lesions": 5}, "lesions"),
    ],
)
def test_a_setting_out_of_range_is_named(settings: dict, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        synthesize_eye(0, **settings)


def test_a_negative_seed_is_named() -> None:
    with pytest.raises(ValueError, match="seed"):
        synthesize_eye(-1)
