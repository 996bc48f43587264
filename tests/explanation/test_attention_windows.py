"""Windows of attention back at their places in the image."""

import pytest
import timm
import torch
from timm.models.swin_transformer import window_partition

from foveal.blocks.attention_taps import attention_of
from foveal.explanation.attention_windows import Windows, windows_of


@pytest.mark.parametrize(("grid", "shift"), [((8, 12), (0, 0)), ((8, 12), (2, 2)), ((7, 10), (2, 1))])
def test_parted_and_laid_out_again_nothing_has_moved(grid, shift):
    values = torch.rand(1, *grid, 3)
    rolled = values.roll((-shift[0], -shift[1]), (1, 2))
    padded = torch.nn.functional.pad(rolled, (0, 0, 0, -grid[1] % 4, 0, -grid[0] % 4))
    parted = window_partition(padded, (4, 4)).flatten(1, 2).mT
    windows = Windows(grid, (4, 4), shift)
    assert windows.count == len(parted)
    assert torch.equal(windows.laid_out(parted), values[0].movedim(-1, 0))
    with pytest.raises(ValueError, match="are wanted"):
        windows.laid_out(parted[1:])


def test_timms_blocks_tell_their_windows_and_others_do_not():
    swin = timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=56, embed_dim=24, depths=(2,), num_heads=(1,), num_classes=3
    ).eval()
    names = [layer.name for layer in attention_of(swin, torch.rand(1, 3, 56, 56))]
    assert [windows_of(swin, name) for name in names] == [
        Windows((14, 14), (7, 7), (0, 0)), Windows((14, 14), (7, 7), (3, 3)),
    ]  # fmt: skip
    vit = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=16, depth=1, num_heads=2
    )
    assert windows_of(vit, "blocks.0.attn") is None
