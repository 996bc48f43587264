import copy

import pytest
import torch
from torch.nn import functional as F

from foveal.blocks.bidirectional import BidirectionalMamba
from foveal.blocks.mamba import CausalConv, MambaMixer
from foveal.blocks.multi_path import MultiPath, along


def test_a_reversed_convolution_is_the_flipped_one_of_the_flipped_sequence():
    conv, x = CausalConv(6), torch.randn(2, 9, 6)
    assert torch.equal(conv.along(x, "reverse"), conv(x.flip(1)).flip(1))


@pytest.mark.parametrize("kernel_size", [1, 3, 4])
def test_the_causal_convolution_is_that_of_torch(kernel_size):
    conv, x = CausalConv(6, kernel_size=kernel_size), torch.randn(2, 9, 6)
    wanted = F.conv1d(F.pad(x.mT, (kernel_size - 1, 0)), conv.weight, conv.bias, groups=6).mT
    torch.testing.assert_close(conv(x), wanted)


def test_both_directions_are_two_mixers_of_shared_projections():
    torch.manual_seed(0)
    both = BidirectionalMamba(8, states=4)
    ahead, back = MambaMixer(8, states=4), MambaMixer(8, states=4)
    for mixer, suffix in ((ahead, ""), (back, "_b")):
        mixer.in_proj, mixer.out_proj = both.in_proj, both.out_proj
        mixer.conv1d, mixer.scan = getattr(both, f"conv1d{suffix}"), getattr(both, f"scan{suffix}")
    x = torch.randn(2, 17, 8)
    torch.testing.assert_close(both(x), (ahead(x) + back(x.flip(1)).flip(1)) / 2)
    both.fuse = "sum"
    torch.testing.assert_close(both(x), ahead(x) + back(x.flip(1)).flip(1))


def test_swapped_directions_of_a_flipped_input_flip_the_output():
    both = BidirectionalMamba(8, states=4)
    swapped = copy.deepcopy(both)
    swapped.conv1d, swapped.conv1d_b = swapped.conv1d_b, swapped.conv1d
    swapped.scan, swapped.scan_b = swapped.scan_b, swapped.scan
    x = torch.randn(2, 17, 8)
    torch.testing.assert_close(swapped(x.flip(1)).flip(1), both(x), rtol=0, atol=1e-6)


def test_the_official_start_has_long_steps_on_the_way_back_only():
    official = BidirectionalMamba(64, init_backward="official")
    symmetric = BidirectionalMamba(64)
    assert F.softplus(official.scan_b.dt_proj.bias).min().item() == pytest.approx(0.6931, abs=1e-3)
    for bias in (official.scan.dt_proj.bias, symmetric.scan_b.dt_proj.bias, symmetric.scan.dt_proj.bias):
        steps = F.softplus(bias)
        assert 9e-4 < steps.min().item() < steps.max().item() < 0.11


@pytest.mark.parametrize("mixer", [MambaMixer(8, states=4), BidirectionalMamba(8, states=4)])
def test_orders_followed_within_the_mixer_equal_those_arranged_outside(mixer):
    torch.manual_seed(0)
    x, order = torch.randn(2, 13, 8), torch.randperm(13)
    orders = ["forward", "reverse", order]
    wanted = along(mixer, x, orders)
    for mine, theirs in zip(mixer.inner(x, orders), wanted, strict=True):
        torch.testing.assert_close(mixer.out_proj(mine), theirs)
    fused = MultiPath(mixer, 8)
    weights = torch.softmax(
        fused.gate[0](torch.cat([path.mean(1) for path in wanted], dim=-1)), dim=-1
    )  # fmt: skip
    expected = sum(weights[:, k, None, None] * path for k, path in enumerate(wanted))
    torch.testing.assert_close(fused(x, orders=orders), expected)


def test_gradients_reach_every_parameter_in_both_directions():
    both = BidirectionalMamba(8, states=4)
    both(torch.randn(2, 5, 8)).square().sum().backward()
    assert all(float(p.grad.abs().sum()) > 0 for p in both.parameters())


@pytest.mark.parametrize("settings", [{"fuse": "max"}, {"init_backward": "offical"}])
def test_unknown_options_are_refused(settings):
    with pytest.raises(ValueError, match="unknown"):
        BidirectionalMamba(8, **settings)
