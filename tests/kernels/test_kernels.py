"""Every compiled kernel equals its plain reference."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from scipy import ndimage
from skimage.morphology import skeletonize

from foveal.kernels.compiled import compiled
from foveal.kernels.distance import (
    BackgroundDistance,
    distance_to_background,
    distance_to_background_reference,
)
from foveal.kernels.ends import restore_path_ends, restore_path_ends_reference
from foveal.kernels.holes import fill_holes, fill_holes_reference
from foveal.kernels.paths import (
    join_paths,
    join_paths_reference,
    smooth_paths,
    smooth_paths_reference,
    width_across,
    width_across_reference,
)
from foveal.kernels.skeleton import (
    skeleton_degree,
    skeleton_degree_reference,
    trace_skeleton,
    trace_skeleton_reference,
)
from foveal.kernels.thinning import (
    thin,
    thin_keeping_diagonals,
    thin_keeping_diagonals_reference,
    thin_reference,
)

masks = st.tuples(st.integers(1, 14), st.integers(1, 14)).flatmap(lambda shape: arrays(np.bool_, shape))
quick = settings(deadline=None, max_examples=150)


def blobs(seed: int, shape: tuple[int, int] = (90, 110), share: float = 0.5) -> np.ndarray:
    """A mask of smooth blobs, whose skeleton has ends, junctions and loops."""
    noise = np.random.default_rng(seed).normal(size=shape)
    spectrum = np.fft.fft2(noise) * np.exp(
        -300 * (np.fft.fftfreq(shape[0])[:, None] ** 2 + np.fft.fftfreq(shape[1]) ** 2)
    )
    smooth = np.fft.ifft2(spectrum).real
    return smooth > np.quantile(smooth, 1 - share)


def path_set(edges, offsets, points) -> set:
    """Edges as a set of point sequences without direction; a closed one without a first point."""
    result = set()
    for (first, last), low, high in zip(edges, offsets[:-1], offsets[1:], strict=True):
        path = [tuple(np.round(point, 6)) for point in points[low:high]]
        if first == last:
            least = min(range(len(path) - 1), key=path.__getitem__)
            path = path[least:-1] + path[:least]
            path = min(path, path[:1] + path[:0:-1])
        result.add(tuple(min(path, path[::-1])) if first != last else tuple(path))
    return result


@quick
@given(masks)
def test_degree_equals_reference(mask):
    np.testing.assert_array_equal(skeleton_degree(mask), skeleton_degree_reference(mask))


def test_staircase_has_no_junction():
    stairs = np.zeros((12, 12), bool)
    for i in range(5):
        stairs[2 * i : 2 * i + 3, 2 * i] = True
        stairs[2 * i + 2, 2 * i : 2 * i + 3] = True
    assert skeleton_degree(stairs).max() == 2


@quick
@given(masks)
def test_trace_equals_reference_on_any_binary_image(mask):
    for found, expected in zip(trace_skeleton(mask), trace_skeleton_reference(mask), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("seed", range(4))
def test_trace_equals_reference_on_skeletons(seed):
    skeleton = skeletonize(blobs(seed))
    for found, expected in zip(trace_skeleton(skeleton), trace_skeleton_reference(skeleton), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("seed", range(4))
def test_trace_covers_every_skeleton_pixel_once(seed):
    skeleton = skeletonize(blobs(seed))
    trace = trace_skeleton(skeleton)
    inner = np.concatenate([path[1:-1] for path in np.split(trace.points, trace.offsets[1:-1])]).astype(int)
    lines = np.zeros_like(skeleton)
    lines[tuple(inner.T)] = True
    assert len(np.unique(inner, axis=0)) == len(inner)
    degree = skeleton_degree(skeleton)
    expected = degree == 2
    loops = trace.nodes[[a for a, b in trace.edges if a == b]].astype(int)
    for row, column in loops:  # the node of a closed curve is an ordinary pixel of it
        expected[row, column] &= lines[row, column]
    np.testing.assert_array_equal(lines, expected)


def test_trace_of_nothing_is_empty():
    trace = trace_skeleton(np.zeros((5, 7), bool))
    assert len(trace.nodes) == len(trace.edges) == len(trace.points) == 0
    assert trace.offsets.tolist() == [0]


@pytest.mark.parametrize("function", [trace_skeleton, trace_skeleton_reference, skeleton_degree])
def test_skeleton_must_be_an_image(function):
    with pytest.raises(ValueError, match=r"skeleton must be two-dimensional.*\(3,\)"):
        function(np.zeros(3, bool))


@quick
@given(masks)
def test_distance_equals_scipy_at_every_pixel(mask):
    everywhere = np.argwhere(np.ones_like(mask))
    found = distance_to_background(mask, everywhere)
    np.testing.assert_array_equal(found, distance_to_background_reference(mask, everywhere))


def test_prepared_distance_answers_again():
    mask = blobs(1)
    distance, pixels = BackgroundDistance(mask), np.argwhere(mask)
    for part in (pixels[::2], pixels[1::2], pixels[:0]):
        np.testing.assert_array_equal(distance.at(part), distance_to_background_reference(mask, part))


def test_distance_refuses_pixels_outside():
    with pytest.raises(ValueError, match=r"inside the \(4, 5\) mask"):
        distance_to_background(np.ones((4, 5), bool), np.array([[4, 0]]))


@quick
@given(masks, st.integers(1, 3))
def test_thinning_equals_reference_and_scikit_image(mask, scale):
    mask = mask.repeat(scale, axis=0).repeat(scale, axis=1)
    found = thin(mask)
    np.testing.assert_array_equal(found, thin_reference(mask))
    np.testing.assert_array_equal(found, skeletonize(mask))


@quick
@given(masks, st.integers(1, 5))
def test_thinning_that_keeps_diagonals_equals_reference_and_keeps_connections(mask, scale):
    mask = mask.repeat(scale, axis=0).repeat(scale, axis=1)
    found = thin_keeping_diagonals(mask)
    np.testing.assert_array_equal(found, thin_keeping_diagonals_reference(mask))
    assert not (found & ~mask).any()
    around = np.ones((3, 3))
    assert ndimage.label(found, around)[1] == ndimage.label(mask, around)[1]


@pytest.mark.parametrize("width", range(2, 16))
@pytest.mark.parametrize("flip", [False, True])
def test_diagonal_bars_keep_a_line_as_long_as_they_are(width, flip):
    row, column = np.mgrid[:120, :120] - 20
    mask = (np.abs(row - column) < width / np.sqrt(2)) & (row + column >= 0) & (row + column < 160)
    line = thin_keeping_diagonals(mask[:, :: -1 if flip else 1])
    assert line.sum() >= 80 - width


def test_every_neighbourhood_is_thinned_as_by_scikit_image():
    bits = np.arange(512)[:, None] >> np.arange(9) & 1
    for grown in (1, 3):  # the nine pixels alone, and as the corners of a larger shape
        for mask in bits.astype(bool).reshape(-1, 3, 3):
            mask = mask.repeat(grown, axis=0).repeat(grown, axis=1)
            np.testing.assert_array_equal(thin(mask), skeletonize(mask))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("share", [0.3, 0.7])
def test_thinning_of_blobs_equals_scikit_image(seed, share):
    mask = blobs(seed, (300, 400), share)
    np.testing.assert_array_equal(thin(mask), skeletonize(mask))


def test_thinning_of_real_masks_equals_scikit_image(data_root):
    paths = sorted((data_root / "CHASE_DB1").glob("manual?/*.png"))[::7]
    paths += sorted((data_root / "LES-AV" / "av").glob("*.png"))[::7]
    assert paths
    for path in paths:
        with Image.open(path) as image:
            mask = np.array(image) > 0
        np.testing.assert_array_equal(thin(mask), skeletonize(mask), err_msg=path.name)


@quick
@given(masks, st.integers(0, 12))
def test_filling_equals_reference(mask, largest):
    np.testing.assert_array_equal(fill_holes(mask, largest), fill_holes_reference(mask, largest))


@pytest.mark.parametrize("largest", [1, 40, 400, 10**9])
def test_filling_of_large_holes_equals_reference(largest):
    mask = blobs(3, share=0.6) & (np.random.default_rng(3).random((90, 110)) < 0.97)
    found = fill_holes(mask, largest)
    np.testing.assert_array_equal(found, fill_holes_reference(mask, largest))
    assert found.sum() > mask.sum()


def test_filling_refuses_a_negative_area():
    with pytest.raises(ValueError, match="largest must be 0 or more, got -1"):
        fill_holes(np.ones((4, 4), bool), -1)


@pytest.mark.parametrize("function", [thin, thin_reference, fill_holes, fill_holes_reference])
def test_mask_must_be_an_image(function):
    arguments = (np.zeros(3, bool), 1)[: function.__code__.co_argcount]
    with pytest.raises(ValueError, match=r"mask must be two-dimensional.*\(3,\)"):
        function(*arguments)


@quick
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=9))
def test_join_equals_reference(pairs):
    # Points are numbered; those at the ends are replaced by their node, as the contract says.
    edges = np.array(pairs, np.int64).reshape(-1, 2)
    offsets = 4 * np.arange(len(edges) + 1)
    points = np.stack([np.arange(4 * len(edges)) + 100.0, np.zeros(4 * len(edges))], axis=1)
    points[offsets[:-1], 0], points[offsets[1:] - 1, 0] = edges[:, 0], edges[:, 1]
    found, expected = join_paths(edges, offsets), join_paths_reference(edges, offsets)
    assert path_set(*found[:2], points[found[2]]) == path_set(*expected[:2], points[expected[2]])
    assert len(found[0]) == len(expected[0])


@quick
@given(st.integers(0, 10_000), st.lists(st.integers(2, 20), max_size=6))
def test_restored_ends_equal_reference(seed, lengths):
    rng = np.random.default_rng(seed)
    mask = blobs(seed % 7, (40, 50))
    offsets = np.cumsum([0, *lengths])
    points = np.clip(rng.integers(-1, 2, (offsets[-1], 2)).cumsum(axis=0) + 20.0, 0, [39, 49])
    half_widths = rng.uniform(0, 5, offsets[-1])
    free = rng.random((len(lengths), 2)) < 0.6
    found = restore_path_ends(mask, points, offsets, half_widths, free)
    expected = restore_path_ends_reference(mask, points, offsets, half_widths, free)
    np.testing.assert_array_equal(found[1], expected[1])
    np.testing.assert_allclose(found[0], expected[0], rtol=0, atol=1e-9)
    np.testing.assert_array_equal(found[2], expected[2])


def test_end_is_led_straight_to_the_end_of_the_mask():
    mask = np.zeros((21, 60), bool)
    mask[8:13, 5:50] = True
    points = np.stack([np.full(40, 10.0), np.arange(8.0, 48.0)], axis=1)
    points[:2, 0] = 12.0  # thinning ran into a corner
    found, offsets, _ = restore_path_ends(
        mask, points, np.array([0, 40]), np.full(40, 2.5), np.array([[True, False]])
    )
    assert offsets.tolist() == [0, len(found)]
    assert found[0].tolist() == pytest.approx([10.0, 4.5], abs=0.25)
    np.testing.assert_array_equal(found[:, 0], 10.0)
    np.testing.assert_array_equal(found[-1], points[-1])


@quick
@given(st.integers(0, 10_000), st.lists(st.integers(2, 20), min_size=1, max_size=5))
def test_smoothing_equals_reference(seed, lengths):
    rng = np.random.default_rng(seed)
    offsets = np.cumsum([0, *lengths])
    points = rng.normal(size=(offsets[-1], 2)).cumsum(axis=0)
    closed = rng.random(len(lengths)) < 0.5
    points[offsets[1:][closed] - 1] = points[offsets[:-1][closed]]
    sigma = rng.uniform(0, 5, len(lengths))
    found = smooth_paths(points, offsets, sigma, closed)
    np.testing.assert_allclose(
        found, smooth_paths_reference(points, offsets, sigma, closed), rtol=0, atol=1e-9
    )
    np.testing.assert_allclose(found[offsets[:-1]][~closed], points[offsets[:-1]][~closed], atol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_width_equals_reference(seed):
    rng = np.random.default_rng(seed)
    mask = blobs(seed, (60, 70))
    points = rng.uniform(0, [59, 69], (400, 2))
    angle = rng.uniform(0, 2 * np.pi, 400)
    normals = np.stack([np.sin(angle), np.cos(angle)], axis=1)
    reach = rng.uniform(0.5, 20, 400)
    found = width_across(mask, points, normals, reach)
    np.testing.assert_allclose(found, width_across_reference(mask, points, normals, reach), atol=1e-9)
    assert 0 < np.isnan(found).sum() < 400
    clear = distance_to_background(mask, np.rint(points))
    assert clear.max() > 5
    np.testing.assert_allclose(width_across(mask, points, normals, reach, clear=clear), found, atol=1e-12)


def test_kernels_compile_where_no_cache_can_be_written():
    # A function without a source file has no place for a cache, like one in a read-only installation.
    scope: dict = {}
    exec(compile("def add(a, b):\n    return a + b\n", "<nowhere>", "exec"), scope)
    assert compiled(scope["add"])(2, 3) == 5
