"""SegMamba's stage equals its formulas, with the mixers of transformers."""

import pytest
import torch
from torch.nn import functional as F

from foveal.blocks.tri_orientated import GatedSpatialConv, TriOrientatedStage, tri_orientated_mamba


def assert_near(ours, expected):
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_tri_orientated_layer_sums_three_ways_beside_an_identity(their_mixer) -> None:
    layer, x = tri_orientated_mamba(8, nslices=3), torch.randn(2, 8, 3, 2, 4)
    mixer = layer.layer.mixer
    there, back, across = (their_mixer(mixer, way) for way in mixer.ways)
    tokens, order = F.layer_norm(x.flatten(2).mT, (8,)), torch.arange(24).view(3, 8).T.flatten()
    y = there(tokens) + back(tokens.flip(1)).flip(1)
    y[:, order] += across(tokens[:, order])
    assert_near(layer(x), x + y.mT.reshape(x.shape))
    assert torch.equal(layer(x), tri_orientated_mamba_of_default_slices(layer, x))


def tri_orientated_mamba_of_default_slices(layer, x):
    other = tri_orientated_mamba(8)
    other.load_state_dict(layer.state_dict())
    return other(x)


@torch.no_grad()
@pytest.mark.parametrize("fuse", ["add", "multiply"])
def test_gated_convolution_is_its_formula(fuse: str) -> None:
    block, x = GatedSpatialConv(4, fuse=fuse), torch.randn(2, 4, 3, 4, 5)

    def r(step, x):
        conv = step[0]
        return F.relu(F.instance_norm(F.conv3d(x, conv.weight, conv.bias, padding=conv.kernel_size[0] // 2)))

    near, gate = r(block.near[1], r(block.near[0], x)), r(block.gate, x)
    joined = near + gate if fuse == "add" else near * gate
    assert_near(block(x), x + r(block.proj, joined))


@pytest.mark.parametrize("dimensions", [2, 3])
def test_stages_keep_shapes_and_every_parameter_learns(dimensions: int) -> None:
    stage, x = TriOrientatedStage(8, dimensions=dimensions), torch.randn(2, 8, *(4, 3, 5)[:dimensions])
    y = stage(x)
    (y * torch.randn_like(y)).sum().backward()
    assert y.shape == x.shape
    assert len(stage.layers) == 2
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in stage.parameters())


def test_slices_that_do_not_divide_and_unknown_fusions_are_refused() -> None:
    with pytest.raises(ValueError, match="nslices is 5; allowed: a divisor of the 24 tokens"):
        tri_orientated_mamba(8, nslices=5)(torch.randn(1, 8, 3, 2, 4))
    with pytest.raises(ValueError, match="unknown fuse 'multipl'; did you mean 'multiply'"):
        GatedSpatialConv(4, fuse="multipl")
