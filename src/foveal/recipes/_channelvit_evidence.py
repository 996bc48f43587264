"""What proves the ChannelViT recipe: exact facts of tokens and sampling, then learning and cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from math import comb

import torch
from scipy.stats import chisquare
from timm.models.vision_transformer import VisionTransformer

from foveal.blocks.channel_tokens import Sampling, draw_channels, stack_channels
from foveal.encoders.channelvit import ChannelViT
from foveal.machine import seconds_of
from foveal.recipes.base import Evidence, Finding, Scale


def evidence(scale: Scale) -> Iterable[Evidence]:
    """Exact facts at either scale; learning and cost in full."""
    yield equals_a_vision_transformer_on_grey
    yield follows_channels_with_their_indices
    yield missing_channels_are_masked_tokens
    yield sets_of_each_image_in_one_batch
    yield sizes_and_subsets_are_drawn_alike
    yield parameters_follow_the_formula
    if scale == "full":
        from foveal.recipes._channelvit_learning import incomplete_training, on_digits, on_textures

        # Times are never part of a test, and so not of the quick evidence.
        yield on_digits
        yield on_textures
        yield incomplete_training
        yield cost_of_channels


def _model() -> ChannelViT:
    return ChannelViT(dim=48, depth=3, heads=3, image_size=32, patch_size=8, in_channels=4).eval()


@torch.no_grad()
def equals_a_vision_transformer_on_grey() -> Finding:
    """With one channel and no vector for it, the class feature is that of timm's ViT."""
    vit = VisionTransformer(
        img_size=32, patch_size=8, in_chans=1, embed_dim=48, depth=3, num_heads=3, num_classes=0
    ).eval()
    grey = torch.rand(4, 1, 32, 32)
    own = ChannelViT.from_rgb_vit(vit, in_channels=4).eval()(grey, [2]).pooled
    claim = "one channel, E = 0: largest difference from timm's ViT with the same weights"
    return Finding.at_most(claim, float((own - vit(grey)).abs().max()), 1e-5)


@torch.no_grad()
def follows_channels_with_their_indices() -> Iterator[Finding]:
    """Permuting channels with their indices leaves the class feature, without them it does not."""
    model, images, order = _model(), torch.rand(4, 4, 32, 32), [2, 0, 3, 1]
    wanted = model(images).pooled
    both = float((model(images[:, order], order).pooled - wanted).abs().max())
    pixels = float((model(images[:, order]).pooled - wanted).abs().max())
    yield Finding.at_most("channels permuted with their indices: change of the class feature", both, 1e-5)
    yield Finding.at_least("channels permuted without: change of the class feature", pixels, 1e-3)


@torch.no_grad()
def missing_channels_are_masked_tokens() -> Finding:
    """Leaving a channel out equals attention in which its tokens are masked."""
    model, images = _model(), torch.rand(4, 4, 32, 32)
    masked = model(images, torch.tensor([[0, -1, 2, 3]] * 4)).pooled
    left_out = model(images[:, [0, 2, 3]], [0, 2, 3]).pooled
    difference = float((masked - left_out).abs().max())
    return Finding.at_most(
        "a channel left out against its tokens masked: largest difference", difference, 1e-5
    )


@torch.no_grad()
def sets_of_each_image_in_one_batch() -> Finding:
    """Images with their own channels, padded to one batch, give what each gives alone."""
    model, sets = _model(), [[0, 2, 3], [1], [3, 0], [0, 1, 2, 3]]
    images = [torch.rand(len(own), 32, 32) for own in sets]
    together = model(*stack_channels(images, sets)).pooled
    alone = torch.cat([model(image[None], own).pooled for image, own in zip(images, sets, strict=True)])
    claim = "four images with different channels in one batch: largest difference from one by one"
    return Finding.at_most(claim, float((together - alone).abs().max()), 1e-5)


def sizes_and_subsets_are_drawn_alike(draws: int = 20_000, channels: int = 5) -> Iterator[Finding]:
    """Hierarchical sampling: sizes uniform, subsets of a size alike; channel dropout is neither."""

    def drawn(mode: Sampling) -> list[frozenset[int]]:
        generator = torch.Generator().manual_seed(0)
        return [
            frozenset(draw_channels(channels, mode=mode, generator=generator).tolist()) for _ in range(draws)
        ]

    def p_value(subsets: list[frozenset[int]]) -> float:
        sizes = Counter(map(len, subsets))
        return float(chisquare([sizes[m] for m in range(1, channels + 1)]).pvalue)

    hierarchical = drawn("hcs")
    yield Finding.at_least(
        f"sizes of {draws} draws from {channels}: p of uniformity", p_value(hierarchical), 0.01
    )
    subsets = Counter(hierarchical)
    worst = max(
        abs(times / draws * channels * comb(channels, len(subset)) - 1) for subset, times in subsets.items()
    )
    yield Finding.close("subsets that were drawn", len(subsets), 2**channels - 1, tolerance=0)
    yield Finding.at_most("largest relative departure from 1 / (C binom(C, m))", worst, 0.15)
    yield Finding.at_most(
        "sizes under channel dropout of 0.5: p of uniformity", p_value(drawn("dropout")), 0.01
    )


def parameters_follow_the_formula() -> Iterator[Finding]:
    """The projection does not grow with the channels; the whole follows the closed formula."""
    dim, depth, patch, classes, cells = 384, 12, 16, 161, 14 * 14
    block = 12 * dim**2 + 13 * dim
    for channels in (3, 8):
        with torch.device("meta"):  # counting needs no values
            model = ChannelViT(size="small", in_channels=channels)
        found = sum(p.numel() for p in model.parameters()) + dim * classes + classes
        projection = sum(p.numel() for p in model.tokenizer.project.parameters())
        formula = (
            patch**2 * dim
            + dim
            + channels * dim
            + (2 + cells) * dim
            + depth * block
            + 2 * dim
            + dim * classes
            + classes
        )
        yield Finding.close(
            f"S/16, {channels} channels, {classes} classes: parameters", found, formula, tolerance=0
        )
        yield Finding.close(
            f"of them in the projection, {channels} channels", projection, patch**2 * dim + dim, tolerance=0
        )


def cost_of_channels(side: int = 224, channels: int = 4) -> Iterator[Finding]:
    """Time of a training step with some of four channels, and what sampling saves."""
    model = ChannelViT(
        dim=192, depth=4, heads=3, image_size=side, in_channels=channels, sampling="none"
    ).train()
    images = torch.rand(4, channels, side, side)

    def step(count: int) -> None:
        model.zero_grad()
        model(images[:, :count], list(range(count))).pooled.sum().backward()

    work = {str(count): lambda count=count: step(count) for count in range(1, channels + 1)}  # type: ignore[misc]
    seconds = seconds_of(work, rounds=5)
    ratio = seconds[str(channels)] / seconds["1"]
    yield Finding.fact(
        f"a step with {channels} channels beside one with a single channel ({side} px, patch 16): time",
        4 <= ratio <= 8,
        expected="4 to 8 times",
        measured=f"{ratio:.2f} times",
    )
    mean = sum(seconds.values()) / channels / seconds[str(channels)]
    yield Finding.at_most(
        "hierarchical sampling: mean time of a step over that with all channels", mean, 0.65
    )
