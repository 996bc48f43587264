"""Patch masks: how many are kept, complements, whole images, blocks, and the pixels that they leave."""

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from foveal.blocks.patch_masks import (
    MaskSettings,
    blockwise_masks,
    draw_masks,
    masked_images,
    uniform_masks,
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_number_kept_is_uniform_and_no_patch_is_preferred():
    masks = uniform_masks(20_000, 16, generator=seeded())
    assert chisquare(np.bincount(masks.sum(1).numpy(), minlength=17)).pvalue > 0.01
    torch.testing.assert_close(masks.float().mean(0), torch.full((16,), 0.5), atol=0.015, rtol=0)


@pytest.mark.parametrize("kind", ["uniform", "bernoulli", "blockwise"])
def test_every_draw_has_its_complement_behind_it_and_the_third_mask_is_whole(kind):
    masks = draw_masks(MaskSettings(kind=kind), 50, (6, 6), generator=seeded())
    assert masks.shape == (50, 3, 36)
    assert (masks[:, 0] ^ masks[:, 1]).all()
    assert masks[:, 2].all()
    assert masks[:, 0].any()


@pytest.mark.parametrize(
    ("antithetic", "whole", "draws"), [(False, True, 2), (True, False, 2), (False, False, 1)]
)
def test_complements_and_whole_masks_can_be_left_out_one_by_one(antithetic, whole, draws):
    settings = MaskSettings(antithetic=antithetic, whole=whole, draws=draws)
    masks = draw_masks(settings, 200, 9, generator=seeded())
    assert masks.shape[1] == settings.per_image == draws * (1 + antithetic) + whole
    assert masks[:, -1].all() == whole
    if antithetic:
        assert (masks[:, 0:4:2] ^ masks[:, 1:4:2]).all()
    else:
        assert not (masks[:, 0] ^ masks[:, -1]).all()


def test_the_keep_ratio_is_what_is_kept():
    for blocks in ("kept", "dropped"):
        masks = blockwise_masks(40, (14, 14), keep_ratio=0.4, blocks=blocks, generator=seeded())
        assert set(masks.sum(1).tolist()) == {round(0.4 * 196)}
    bernoulli = MaskSettings(kind="bernoulli", keep_ratio=0.25, antithetic=False, whole=False)
    masks = draw_masks(bernoulli, 2000, 36, generator=seeded())
    assert float(masks.float().mean()) == pytest.approx(0.25, abs=0.01)
    assert draw_masks(bernoulli.replace(keep_ratio=1.0), 3, 36).all()
    assert not draw_masks(bernoulli.replace(keep_ratio=0.0), 3, 36).any()


def test_blocks_hang_together_more_than_single_patches():
    def neighbours(masks):
        grids = masks.view(-1, 14, 14)
        return float((grids[:, 1:] == grids[:, :-1]).float().mean())

    blocks = blockwise_masks(50, (14, 14), keep_ratio=0.5, generator=seeded())
    assert neighbours(blocks) > 0.75 > 0.55 > neighbours(torch.rand(50, 196, generator=seeded()) < 0.5)


def test_the_same_generator_draws_the_same_masks():
    for kind in ("uniform", "bernoulli", "blockwise"):
        settings = MaskSettings(kind=kind)
        first, second = (draw_masks(settings, 4, 16, generator=seeded(3)) for _ in range(2))
        assert torch.equal(first, second)


def test_dropped_patches_are_zero_and_kept_ones_untouched():
    images = torch.rand(2, 3, 8, 12) + 1
    masks = torch.zeros(2, 2, 6, dtype=torch.bool)
    masks[:, 0, 1] = True
    masks[:, 1] = True
    masked = masked_images(images, masks, 4)
    assert masked.shape == (4, 3, 8, 12)
    assert torch.equal(masked[0, :, :4, 4:8], images[0, :, :4, 4:8])
    assert int((masked[0] != 0).sum()) == 3 * 16
    assert torch.equal(masked[3], images[1])


def test_the_border_beyond_the_last_whole_patch_is_always_dropped():
    images = torch.ones(1, 1, 10, 9)
    masked = masked_images(images, torch.ones(1, 1, 6, dtype=torch.bool), (5, 3))
    assert torch.equal(masked, images)
    masked = masked_images(images, torch.ones(1, 1, 4, dtype=torch.bool), 4)
    assert masked[..., :8, :8].all()
    assert masked.sum() == 64


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"square grid of patches, found \(4, 6\)"):
        draw_masks(MaskSettings(kind="blockwise"), 2, (4, 6))
    with pytest.raises(ValueError, match="square grid of patches, found 24"):
        blockwise_masks(2, 24, keep_ratio=0.5)
    with pytest.raises(ValueError, match=r"want \(1, R, 4\)"):
        masked_images(torch.rand(1, 3, 8, 8), torch.ones(1, 3, 5, dtype=torch.bool), 4)
    with pytest.raises(ValueError, match="which draws it"):
        MaskSettings(keep_ratio=0.5)
    with pytest.raises(ValueError, match="leave no mask"):
        MaskSettings(draws=0, whole=False)
