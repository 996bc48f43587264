"""Walks over linked pixels equal their plain references, on thin lines and on clusters alike."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from foveal.kernels.pixel_links import (
    LINK_LENGTHS,
    LINK_STEPS,
    links_among,
    pixel_links,
    pixel_links_reference,
)
from foveal.kernels.rooted_walks import (
    nearest_of_parts,
    nearest_of_parts_reference,
    prune_twigs,
    prune_twigs_reference,
    walk_branches,
    walk_branches_reference,
)
from foveal.kernels.skeleton_segments import (
    covering_length,
    covering_length_reference,
    greatest_depths,
    greatest_depths_reference,
    junction_arms,
    junction_arms_reference,
    skeleton_segments,
    skeleton_segments_reference,
)
from foveal.kernels.thinning import thin
from foveal.kernels.width_walk import measure_widths, measure_widths_reference


def seeds(test: Callable[[int], None]) -> Callable[[], None]:
    return settings(max_examples=40, deadline=None)(given(st.integers(0, 10**6))(test))


def tangle(seed: int) -> np.ndarray:
    """Noise, blobs or their skeleton: loops, clusters, isolated pixels and lines up to the border."""
    rng = np.random.default_rng(seed)
    image = rng.random(rng.integers(8, 30, 2))
    if seed % 3:
        image = ndimage.gaussian_filter(image, 1.2)
    image = image > np.quantile(image, rng.uniform(0.4, 0.9))
    return thin(image) if seed % 3 == 1 else image


def rooted(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    positions, links = pixel_links(tangle(seed))
    distances = np.hypot(*(positions - np.random.default_rng(seed).uniform(0, 30, 2)).T)
    return positions, links, nearest_of_parts(links, distances, 4)


def all_equal(found: tuple, expected: tuple) -> None:
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@seeds
def test_links_equal_shifted_numbers(seed: int) -> None:
    all_equal(pixel_links(tangle(seed)), pixel_links_reference(tangle(seed)))


@seeds
def test_links_lead_to_the_pixel_one_step_away(seed: int) -> None:
    positions, links = pixel_links(tangle(seed))
    for k, step in enumerate(LINK_STEPS):
        linked = links[:, k] >= 0
        moves = positions[links[linked, k]] - positions[linked]
        np.testing.assert_array_equal(moves, np.tile(step, (len(moves), 1)))
    assert pytest.approx([np.hypot(*step) for step in LINK_STEPS]) == LINK_LENGTHS


@seeds
def test_links_among_pixels_are_those_of_the_image_with_only_them(seed: int) -> None:
    image = tangle(seed)
    _, links = pixel_links(image)
    kept = np.random.default_rng(seed).random(len(links)) < 0.7
    fewer = np.zeros_like(image)
    fewer[image] = kept
    renumbered = np.append(kept.cumsum() - 1, -1)[links_among(links, kept)[kept]]
    np.testing.assert_array_equal(renumbered, pixel_links(fewer)[1])


@seeds
def test_nearest_pixels_equal_those_of_sets(seed: int) -> None:
    positions, links = pixel_links(tangle(seed))
    distances = np.round(np.hypot(*(positions - 9.0).T))  # whole numbers, so that there are equal ones
    found = nearest_of_parts(links, distances, 3)
    np.testing.assert_array_equal(found, nearest_of_parts_reference(links, distances, 3))


@seeds
def test_pruning_equals_recursion(seed: int) -> None:
    _, links, starts = rooted(seed)
    np.testing.assert_array_equal(prune_twigs(links, starts, 5), prune_twigs_reference(links, starts, 5))


@seeds
def test_branches_equal_recursion(seed: int) -> None:
    _, links, starts = rooted(seed)
    links = links_among(links, prune_twigs(links, starts, 3))
    found = walk_branches(links, starts, least_steps=4, marker_steps=6)
    all_equal(found, walk_branches_reference(links, starts, least_steps=4, marker_steps=6))


@seeds
def test_covering_length_equals_the_plain_search(seed: int) -> None:
    _, links = pixel_links(tangle(seed))
    assert covering_length(links) == pytest.approx(covering_length_reference(links), rel=1e-12)


@seeds
def test_segments_equal_the_plain_search(seed: int) -> None:
    _, links = pixel_links(tangle(seed))
    particular = (links >= 0).sum(axis=1) != 2
    found = skeleton_segments(links, particular, shortest=2)
    all_equal(found, skeleton_segments_reference(links, particular, shortest=2))


@seeds
def test_depths_equal_the_plain_search(seed: int) -> None:
    _, links = pixel_links(tangle(seed))
    origins = np.flatnonzero((links >= 0).sum(axis=1) != 2)[:20]
    np.testing.assert_array_equal(greatest_depths(links, origins), greatest_depths_reference(links, origins))


@seeds
def test_arms_equal_recursion(seed: int) -> None:
    _, links = pixel_links(tangle(seed))
    junctions = (links >= 0).sum(axis=1) >= 3
    all_equal(junction_arms(links, junctions, reach=5), junction_arms_reference(links, junctions, reach=5))


@seeds
def test_widths_equal_the_walk_with_lists(seed: int) -> None:
    positions, links, starts = rooted(seed)
    rng = np.random.default_rng(seed)
    mask = ndimage.binary_dilation(tangle(seed), iterations=int(rng.integers(0, 3)) or 1)
    within = rng.random(len(links)) < 0.97
    found = measure_widths(links, positions, starts, within, mask, least_steps=4, look_back=3)
    expected = measure_widths_reference(links, positions, starts, within, mask, least_steps=4, look_back=3)
    all_equal(found, expected)


def test_pruning_takes_the_last_pixels_of_a_line() -> None:
    _, links = pixel_links(np.ones((1, 30), bool))
    kept = prune_twigs(links, np.array([0], np.int32), 10)
    np.testing.assert_array_equal(kept, np.arange(30) <= 20)


def test_a_line_is_one_branch_and_its_marker_lies_where_told() -> None:
    _, links = pixel_links(np.eye(50, dtype=bool))
    found = walk_branches(links, np.array([0], np.int32), least_steps=10, marker_steps=30)
    np.testing.assert_array_equal(found.ends, [49])
    np.testing.assert_array_equal(found.markers, [30])
    assert found.arcs == pytest.approx(49 * np.sqrt(2))
    assert not found.forks.any()


def test_a_bar_has_its_width_without_the_middle_pixel() -> None:
    mask = np.zeros((40, 90), bool)
    mask[15:26] = True
    line = np.zeros_like(mask)
    line[20] = True
    positions, links = pixel_links(line)
    within = np.ones(len(links), bool)
    tree = measure_widths(
        links, positions, np.array([0], np.int32), within, mask, least_steps=10, look_back=6
    )
    assert len(tree.widths) > 50
    np.testing.assert_array_equal(tree.widths, 10)


def test_nothing_in_nothing_out() -> None:
    positions, links = pixel_links(np.zeros((5, 7), bool))
    none, no = np.zeros(0, np.int32), np.zeros(0, bool)
    assert links.shape == (0, 8)
    assert len(nearest_of_parts(links, np.zeros(0), 1)) == 0
    assert len(prune_twigs(links, none, 1)) == 0
    assert len(walk_branches(links, none, least_steps=1, marker_steps=1).ends) == 0
    assert covering_length(links) == 0
    assert len(skeleton_segments(links, no, shortest=0)[0]) == 0
    assert len(greatest_depths(links, none)) == 0
    assert len(junction_arms(links, no, reach=3)[0]) == 0
    mask = np.zeros((5, 7), bool)
    assert len(measure_widths(links, positions, none, no, mask, least_steps=1, look_back=1).widths) == 0


def test_links_of_anything_but_a_binary_image_are_refused() -> None:
    with pytest.raises(ValueError, match=r"bool array \(H, W\), got float64 of shape \(3, 3\)"):
        pixel_links(np.zeros((3, 3)))
