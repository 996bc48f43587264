from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foveal.blocks.tiles import (
    blend_tiles,
    fold_tokens,
    merge_tiles,
    split_tiles,
    tile_corners,
    tile_starts,
    tile_window,
)


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 4),
    columns=st.integers(1, 4),
    channels=st.sampled_from([1, 3]),
    batch=st.integers(1, 4),
    side=st.integers(1, 6),
)
def test_merging_undoes_splitting_exactly(rows, columns, channels, batch, side):
    images = torch.rand(batch, channels, rows * side, columns * side)
    tiles = split_tiles(images, rows, columns)
    assert tiles.shape == (rows * columns * batch, channels, side, side)
    assert torch.equal(merge_tiles(tiles, rows, columns), images)


def test_tiles_are_ordered_by_row_column_and_then_image():
    numbers = torch.arange(6.0).reshape(1, 1, 2, 3)
    images = torch.cat([numbers, numbers + 100]).repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    tiles = split_tiles(images, 2, 3)
    assert tiles[:, 0, 0, 0].tolist() == [0, 100, 1, 101, 2, 102, 3, 103, 4, 104, 5, 105]
    assert (tiles.flatten(1).std(dim=1) == 0).all()


def test_uneven_splits_and_merges_are_refused():
    with pytest.raises(ValueError, match="10 x 12 px do not divide into 4 x 4"):
        split_tiles(torch.rand(1, 1, 10, 12), 4, 4)
    with pytest.raises(ValueError, match="no whole number"):
        merge_tiles(torch.rand(5, 1, 2, 2), 2, 2)


@settings(max_examples=50, deadline=None)
@given(length=st.integers(1, 300), tile=st.integers(2, 80), overlap=st.sampled_from([0.0, 0.25, 0.5, 0.9]))
def test_starts_cover_the_length_with_the_overlap_wanted(length, tile, overlap):
    starts = tile_starts(length, tile, overlap)
    assert starts[0] == 0
    assert starts[-1] == max(0, length - tile)
    steps = [after - before for before, after in pairwise(starts)]
    assert all(step <= max(1, tile * (1 - overlap)) + 1 for step in steps)


@pytest.mark.parametrize("profile", ["linear", "cosine"])
def test_blending_overlapping_tiles_of_a_map_gives_the_map(profile):
    maps = torch.rand(2, 3, 20, 28)
    corners = tile_corners(20, 28, 8, 0.25)
    tiles = torch.cat([maps[..., top : top + 8, left : left + 8] for top, left in corners])
    blended = blend_tiles(tiles, corners, 20, 28, tile_window(8, profile=profile))
    torch.testing.assert_close(blended, maps)


def test_windows_fall_to_the_border():
    for profile in ("linear", "cosine"):
        window = tile_window(16, profile=profile)
        assert torch.equal(window, window.T)
        assert torch.allclose(window, window.flip(0))
        assert (window[8].diff()[:7] > 0).all()
        assert window.min() > 0


def test_folded_tokens_hold_every_value_once():
    maps = torch.rand(1, 2, 4, 6)
    folded = fold_tokens(maps, 2)
    assert folded.shape == (1, 8, 2, 3)
    assert torch.equal(folded.flatten().sort().values, maps.flatten().sort().values)
    assert fold_tokens(maps, 3).shape == (1, 18, 2, 2)
