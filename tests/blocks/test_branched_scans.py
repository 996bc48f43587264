"""Scans beside other branches: equality with compositions of transformers' mixer, diffusion, errors."""

import pytest
import torch
from torch.nn import functional as F

from foveal.blocks.branched_scans import (
    DiffusedMamba,
    OmnidirectionalMamba,
    PeronaMalik,
    PixelPatchMamba,
    SiameseMamba,
    TripletMamba,
)


def assert_near(ours, expected):
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_siamese_scans_share_one_mixer_over_all_orders_of_axes(their_mixer) -> None:
    block, x = SiameseMamba(8), torch.randn(2, 8, 3, 4)
    mix, normed = their_mixer(block.mixer), F.layer_norm(x.movedim(1, -1), (8,))
    rows, columns = normed.flatten(1, 2), normed.transpose(1, 2).flatten(1, 2)
    by_rows = (mix(rows) + mix(rows.flip(1)).flip(1)).view(2, 3, 4, 8)
    by_columns = (mix(columns) + mix(columns.flip(1)).flip(1)).view(2, 4, 3, 8).transpose(1, 2)
    assert_near(block(x), x + block.conv(x) + ((by_rows + by_columns) / 4).movedim(-1, 1))


@torch.no_grad()
def test_p_mamba_adds_diffusion_and_scan(their_mixer) -> None:
    block, x = DiffusedMamba(8, routes="row"), torch.randn(2, 8, 3, 4)
    scanned = their_mixer(block.mixer)(F.layer_norm(x.flatten(2).mT, (8,))).mT.reshape(x.shape)
    assert_near(block(x), x + block.proj(block.diffusion(x)) + scanned)


@torch.no_grad()
def test_pixels_are_scanned_within_windows_and_windows_by_their_means(their_mixer) -> None:
    block, x = PixelPatchMamba(8, window=2), torch.randn(1, 8, 4, 4)

    def both(mixer, tokens):
        there, back = (their_mixer(mixer, way) for way in mixer.ways)
        return there(tokens) + back(tokens.flip(1)).flip(1)

    windows = x.unfold(2, 2, 2).unfold(3, 2, 2).flatten(-2)  # (1, 8, 2, 2, 4)
    tokens = F.layer_norm(windows.permute(0, 2, 3, 4, 1).reshape(4, 4, 8), (8,))
    mixed = both(block.pixel, tokens).view(2, 2, 2, 2, 8)
    x1 = x + mixed.permute(4, 0, 2, 1, 3).reshape(1, 8, 4, 4)
    means = F.layer_norm(F.avg_pool2d(x1, 2).flatten(2).mT, (8,))
    scanned = both(block.patch, means).mT.view(1, 8, 2, 2)
    assert_near(block(x), x1 + F.interpolate(scanned, scale_factor=2))


@torch.no_grad()
def test_windows_that_do_not_divide_the_map_are_filled_with_its_last_cells() -> None:
    block = PixelPatchMamba(8, window=4)
    for size in ((3, 3), (5, 9), (4, 8)):
        assert block(torch.randn(1, 8, *size)).shape == (1, 8, *size)


@torch.no_grad()
def test_triplets_scan_with_each_axis_as_features(their_mixer) -> None:
    block, x = TripletMamba(6, grid=(3, 4)), torch.randn(2, 6, 3, 4)
    mixers = [their_mixer(mixer) for mixer in block.mixers]
    by_channels = mixers[0](F.layer_norm(x.flatten(2).mT, (6,))).mT.reshape(x.shape)
    turned = x.permute(0, 3, 1, 2)  # W C H
    by_rows = mixers[1](F.layer_norm(turned, (3,)).flatten(1, 2)).view(turned.shape).permute(0, 2, 3, 1)
    by_columns = mixers[2](F.layer_norm(x, (4,)).flatten(1, 2)).view(x.shape)
    assert_near(block(x), x + by_channels + by_rows + by_columns)
    with pytest.raises(ValueError, match=r"made for \(3, 4\)"):
        block(torch.randn(2, 6, 4, 4))


@torch.no_grad()
def test_omnidirectional_scans_tell_each_channel_of_the_others() -> None:
    block, x = OmnidirectionalMamba(8).eval(), torch.randn(1, 8, 4, 4)
    before = block(x) - block.cells(F.layer_norm(x.movedim(1, -1), (8,))).movedim(-1, 1) - x
    assert_near(before, before.mean(dim=(2, 3), keepdim=True).expand_as(before))
    assert len(block.channels.ways) + len(block.cells.scans) == 6


@pytest.mark.parametrize("dimensions", [2, 3])
def test_diffusion_keeps_sums_and_range_and_leaves_constants(dimensions: int) -> None:
    diffusion = PeronaMalik(3, dimensions=dimensions, steps=5, edge=0.7)
    x = torch.randn(2, 3, *(5, 6, 7)[:dimensions]).double()
    y = diffusion.double()(x)
    torch.testing.assert_close(y.flatten(2).sum(-1), x.flatten(2).sum(-1))
    assert y.max() <= x.max()
    assert y.min() >= x.min()
    assert y.var() < x.var()
    assert torch.equal(diffusion(torch.ones_like(x)), torch.ones_like(x))


def test_diffusion_keeps_edges_and_smooths_noise() -> None:
    torch.manual_seed(0)
    noise = 0.05 * torch.randn(1, 1, 16, 16)
    edge = torch.zeros(1, 1, 16, 16)
    edge[..., 8:] = 2.0
    smooth = PeronaMalik(1, steps=20, edge=0.3)(edge + noise).detach()
    step = smooth[..., 8].mean() - smooth[..., 7].mean()
    assert abs(step - 2) < 0.05
    assert smooth[..., :8].std() < 0.5 * noise.std()


def test_diffusion_is_the_formula_in_one_dimension_of_one_step() -> None:
    x = torch.tensor([0.0, 0.5, 2.0]).view(1, 1, 1, 3)
    flow = [d * torch.exp(torch.tensor(-(d**2))) for d in (0.5, 1.5)]
    expected = torch.tensor([0.1 * flow[0], 0.5 + 0.1 * (flow[1] - flow[0]), 2 - 0.1 * flow[1]])
    y = PeronaMalik(1, steps=1, step=0.1, edge=1.0)(x)
    torch.testing.assert_close(y.flatten(), expected)


def test_unstable_steps_and_missing_grids_are_refused() -> None:
    with pytest.raises(ValueError, match=r"step=0\.3, .*of up to 0\.25"):
        PeronaMalik(1, step=0.3)
    with pytest.raises(ValueError, match="build the network with image_size"):
        TripletMamba(6, grid=None)
