"""MedMamba: sizes, blocks equal to a composition, errors."""

import pytest
import torch
from torch.nn import functional as F

from foveal.blocks.branched_scans import SSConvSSM
from foveal.encoders import create_encoder


@pytest.mark.parametrize(("size", "millions"), [("tiny", 14.5), ("small", 18.6), ("base", 39.9)])
def test_named_sizes(size: str, millions: float) -> None:
    with torch.device("meta"):
        encoder = create_encoder("medmamba", size=size)
    assert round(sum(p.numel() for p in encoder.parameters()) / 1e6, 1) == millions


def test_the_pyramid_covers_the_image_and_every_parameter_learns() -> None:
    encoder = create_encoder("medmamba", dim=8, depths=(1, 1, 1), drop_path=0.0, in_channels=2)
    features = encoder(torch.randn(2, 2, 48, 32))
    assert [tuple(x.shape) for x in features.pyramid] == [(2, 8, 12, 8), (2, 16, 6, 4), (2, 32, 3, 2)]
    (features.patches * torch.randn_like(features.patches)).sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in encoder.parameters())


@torch.no_grad()
def test_halves_are_convolved_and_scanned_and_shuffled() -> None:
    block, x = SSConvSSM(12).eval(), torch.randn(2, 5, 4, 12)
    left, right = x[..., :6], x[..., 6:]
    left = block.convolved(left.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    right = block.scanned(F.layer_norm(right, (6,), block.norm.weight, block.norm.bias, 1e-6))
    y = block(x) - x
    torch.testing.assert_close(y[..., 0::2], left)
    torch.testing.assert_close(y[..., 1::2], right)


def test_wrong_widths_and_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="7 channels do not divide into two halves"):
        SSConvSSM(7)
    with pytest.raises(ValueError, match="unknown size 'huge'"):
        create_encoder("medmamba", size="huge")
    with pytest.raises(ValueError, match="unknown scan 'snail'"):
        create_encoder("medmamba", routes="snail", dim=8)
