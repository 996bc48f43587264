"""U-Mamba, PVM and RVM: sizes, equality with compositions of transformers' mixer, errors."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from foveal.blocks.routed_mamba import RoutedMamba
from foveal.blocks.vision_mamba_layers import PVM, RVM, ResidualRVM, ScaledConvBlock, UMambaLayer

BLOCKS = {
    "u-mamba": lambda dimensions: UMambaLayer(8, dimensions=dimensions),
    "u-mamba of channels": lambda dimensions: UMambaLayer(16, dimensions=dimensions, grid=(2,) * dimensions),
    "pvm": lambda dimensions: PVM(8, dimensions=dimensions),
    "rvm": lambda dimensions: RVM(8, dimensions=dimensions),
    "residual rvm": lambda dimensions: ResidualRVM(8, dimensions=dimensions),
    "scaled convolution": lambda dimensions: ScaledConvBlock(8, dimensions=dimensions),
}


def assert_near(ours, expected):
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("name", BLOCKS)
def test_maps_keep_their_shape_and_every_parameter_learns(name: str, dimensions: int) -> None:
    block = BLOCKS[name](dimensions)
    x = torch.randn(2, 16 if "channels" in name else 8, *(2,) * dimensions)
    y = block(x)
    (y * torch.randn_like(y)).sum().backward()
    assert y.shape == x.shape
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in block.parameters())


def test_pvm_has_a_fifth_of_the_parameters_of_a_full_width_layer() -> None:
    full = parameters(UMambaLayer(64)) + parameters(nn.Linear(64, 64))
    assert (parameters(PVM(64, 64)), full) == (7_649, 36_928)


@torch.no_grad()
def test_one_raster_is_the_mixer_of_transformers_and_three_ways_are_summed(their_mixer) -> None:
    x = torch.randn(2, 3, 4, 5, 12)
    tokens = x.flatten(1, 3)
    one = RoutedMamba(12, dimensions=3)
    assert_near(one(x).flatten(1, 3), their_mixer(one)(tokens))
    three = RoutedMamba(12, routes="tri-orientated", dimensions=3)
    slices = torch.arange(60).view(3, 20).T.flatten()
    expected = their_mixer(three, three.ways[0])(tokens) + their_mixer(three, three.ways[1])(
        tokens.flip(1)
    ).flip(1)
    expected += their_mixer(three, three.ways[2])(tokens[:, slices])[:, slices.argsort()]
    assert_near(three(x).flatten(1, 3), expected)


@torch.no_grad()
def test_runs_of_a_route_begin_anew(their_mixer) -> None:
    mixer, x = RoutedMamba(8, routes="atrous"), torch.randn(1, 4, 4, 8)
    phase = x[:, 1::2, ::2].flatten(1, 2)
    assert_near(mixer(x)[:, 1::2, ::2].flatten(1, 2), their_mixer(mixer)(phase))


@torch.no_grad()
def test_shared_ways_are_one_mixer(their_mixer) -> None:
    mixer, x = RoutedMamba(8, routes="bidirectional", shared=True, merge="mean"), torch.randn(1, 3, 3, 8)
    copy, tokens = their_mixer(mixer), x.flatten(1, 2)
    assert len(mixer.ways) == 1
    assert_near(mixer(x).flatten(1, 2), (copy(tokens) + copy(tokens.flip(1)).flip(1)) / 2)


@torch.no_grad()
def test_u_mamba_is_the_mixer_of_normalised_cells(their_mixer) -> None:
    layer, x = UMambaLayer(12), torch.randn(2, 12, 4, 5)
    tokens = F.layer_norm(x.flatten(2).mT, (12,))
    assert_near(layer(x), their_mixer(layer.mixer)(tokens).mT.reshape(x.shape))


@torch.no_grad()
def test_u_mamba_of_few_cells_takes_channels_as_tokens(their_mixer) -> None:
    layer, x = UMambaLayer(24, grid=(4, 4)), torch.randn(2, 24, 4, 4)
    assert_near(layer(x).flatten(2), their_mixer(layer.mixer)(F.layer_norm(x.flatten(2), (16,))))
    assert UMambaLayer(15, grid=(4, 4)).grid is None
    with pytest.raises(ValueError, match=r"made for \(4, 4\); build the network with the size"):
        layer(torch.randn(2, 24, 4, 8))


@torch.no_grad()
def test_pvm_shares_a_mixer_of_a_quarter_and_its_norm(their_mixer) -> None:
    layer, x = PVM(16, 24), torch.randn(2, 16, 4, 5)
    layer.scale.fill_(0.7)
    layer.norm.weight.uniform_(0.5, 2)
    parts = layer.norm(x.flatten(2).mT).chunk(4, dim=-1)
    joined = torch.cat([their_mixer(layer.mixer)(part) + 0.7 * part for part in parts], dim=-1)
    assert_near(layer(x), layer.proj(layer.norm(joined)).mT.reshape(2, 24, 4, 5))


@torch.no_grad()
def test_rvm_normalises_twice_with_one_norm(their_mixer) -> None:
    layer, x = RVM(16, 8), torch.randn(2, 16, 4, 5)
    layer.scale.fill_(0.7)
    layer.norm.weight.uniform_(0.5, 2)
    tokens = x.flatten(2).mT
    expected = layer.proj(layer.norm(their_mixer(layer.mixer)(layer.norm(tokens)) + 0.7 * tokens))
    assert_near(layer(x), expected.mT.reshape(2, 8, 4, 5))


def test_scans_take_32_bits_under_autocast() -> None:
    layer, seen = RVM(8), []
    layer.mixer.ways[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(1, 8, 3, 3)).dtype == torch.float32
    assert seen == [torch.float32]


@torch.no_grad()
def test_layers_of_64_bits_stay_in_64_bits() -> None:
    assert PVM(8).double()(torch.randn(1, 8, 3, 3).double()).dtype == torch.float64


def test_wrong_widths_scans_and_values_are_refused() -> None:
    with pytest.raises(ValueError, match="6 channels do not divide into 4 equal parts"):
        PVM(6)
    with pytest.raises(ValueError, match="unknown scan 'snail'; did you mean 'snake'"):
        RVM(8, routes="snail")
    with pytest.raises(ValueError, match="spatial_dims is 4"):
        PVM(8, dimensions=4)
    with pytest.raises(ValueError, match=r"allowed: \(B, T, H, W, 8\)"):
        RVM(8, dimensions=3)(torch.randn(1, 8, 4, 4))
    with pytest.raises(ValueError, match="nslices is 5"):
        RVM(8, routes="tri-orientated", route_options={"nslices": 5})(torch.randn(1, 8, 4, 4))
    x = torch.randn(1, 8, 4, 4)
    x[0, 0, 2, 2] = torch.nan
    with pytest.raises(FloatingPointError, match="NaN or infinite"):
        RVM(8)(x)
