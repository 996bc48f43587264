"""What smaller patches are worth: lesions of 2 to 4 px by patch size, and thin lines without a decoder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.blocks.convolution import ConvNormAct
from foveal.encoders.adventurer import Adventurer
from foveal.encoders.base import Encoder
from foveal.evaluation.patch_scaling import PatchSweep, SweepResult
from foveal.metrics.segmentation import binary_counts, overlap_scores
from foveal.models.decoders import UNetDecoder
from foveal.objectives.hard_masks import BceDiceObjective
from foveal.recipes._encoder_learning import LearningData
from foveal.recipes.base import Finding, Section
from foveal.training import TrainingSettings, fit
from foveal.training.randomness import without_touching_randomness

_SIDE = 32
_PATCHES = (16, 8, 4, 2)
_TRAINING = TrainingSettings(
    steps=250,
    batch_size=32,
    learning_rate=3e-3,
    weight_decay=0.05,
    warmup_fraction=0.1,
    gradient_clip=1.0,
    tensorboard=False,
    log_every=250,
)


def lesions(images: int, *, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Unevenly lit noise of 32 px, half of it with one bright square.

    Returns:
        (N, 1, 32, 32) images, (N,) classes, and (N,) sides of the squares, 2 to 4 px; an image without one
        has the side that it would have had.
    """
    draw = torch.Generator().manual_seed(seed)
    light = F.interpolate(
        0.2 * torch.rand(images, 1, 3, 3, generator=draw), size=_SIDE, mode="bilinear", align_corners=True
    )
    canvas = 0.4 + light + 0.1 * torch.randn(images, 1, _SIDE, _SIDE, generator=draw)
    labels = torch.arange(images) % 2
    sides = 2 + torch.arange(images) // 2 % 3
    corner = (torch.rand(images, 2, generator=draw) * (_SIDE - sides + 1)[:, None]).long()
    pixels = torch.arange(_SIDE)
    down, across = (
        (pixels >= corner[:, axis, None]) & (pixels < (corner[:, axis] + sides)[:, None]) for axis in (0, 1)
    )
    square = down[:, None, :, None] & across[:, None, None, :]
    return (canvas + 0.55 * labels.view(-1, 1, 1, 1) * square).clamp(0, 1), labels, sides


def _sweep(encoder: str, settings: dict[str, Any], **options: Any) -> SweepResult:
    images, labels, sides = lesions(6600)
    data = LearningData(images[:6000], labels[:6000], images[6000:], labels[6000:])
    return PatchSweep(
        encoder=encoder,
        settings=settings,
        data=data,
        patch_sizes=_PATCHES,
        training=_TRAINING,
        strata=[f"{side} px" for side in sides[6000:].tolist()],
        **options,
    ).run()


def lesions_by_patch_size(seeds: int = 3) -> Iterator[Finding | Section]:
    """Small lesions by patch size: Adventurer."""
    settings = {"dim": 32, "depth": 2, "states": 16, "head_dim": 32}
    result = _sweep("adventurer", settings, seeds=tuple(range(seeds)), baseline_dim="same_flops")
    yield from _trend(result, "Adventurer")
    fine, coarse, wide = result.select(2), result.select(16), result.select(16, baseline=True)
    low, high = result.law.slope_interval
    yield Finding.fact(
        "Adventurer: slope of the loss by each doubling of the tokens, 95 % interval below 0",
        high < 0,
        expected="< 0",
        measured=f"{result.law.slope:.4g} ({low:.3g} to {high:.3g})",
    )
    gains = [100 * (a.accuracy - b.accuracy) for a, b in zip(fine, coarse, strict=True)]
    yield Finding.at_least("Adventurer: points of accuracy of patch size 2 over 16", gains, 5)
    gains = [100 * (a.accuracy - b.accuracy) for a, b in zip(fine, wide, strict=True)]
    width = wide[0].plan.settings["dim"]
    claim = f"the same over a model of patch size 16 that is wider (D = {width}) and costs as much"
    yield Finding.at_least(claim, gains, 5)
    groups = {
        name: [100 * (a.strata[name] - b.strata[name]) for a, b in zip(fine, coarse, strict=True)]
        for name in ("2 px", "3 px", "4 px")
    }
    told = ", ".join(f"{name} {fmean(values):.1f}" for name, values in groups.items())
    yield Finding.fact(
        "the gain is largest for the smallest lesions",
        fmean(groups["2 px"]) >= max(fmean(groups["3 px"]), fmean(groups["4 px"])),
        expected="2 px gains most",
        measured=f"points gained: {told}",
    )
    yield Section("Lesions of 2 to 4 px by patch size", f"{result.table()}\n\n{result.verdict()}")


def lesions_by_patch_size_of_a_vit(seeds: int = 1) -> Iterator[Finding | Section]:
    """Small lesions by patch size: a small vision transformer."""
    settings = {"embed_dim": 32, "depth": 2, "num_heads": 2}
    result = _sweep("timm/vit_tiny_patch16_224", settings, seeds=tuple(range(seeds)))
    yield from _trend(result, "ViT")
    yield Section("The same of a vision transformer", f"{result.table()}\n\n{result.verdict()}")


def _trend(result: SweepResult, name: str) -> Iterator[Finding]:
    losses = ", ".join(f"{size}: {fmean(run.loss for run in result.select(size)):.3f}" for size in _PATCHES)
    claim = f"{name}: rank correlation of test loss and tokens over all runs (loss by patch size {losses})"
    yield Finding.at_most(claim, result.rank_correlation(), -0.9)


@dataclass(frozen=True)
class ThinLines:
    """Noise of 32 px with dark lines 1 to 2 px wide, and their masks (N, 1, 32, 32)."""

    images: Tensor
    masks: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def sample(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        """One image with its mask."""
        return {"images": self.images[index], "masks": self.masks[index]}


def thin_lines(images: int, *, lines: int = 3, seed: int = 0) -> ThinLines:
    """Straight lines across the image, at any angle and place."""
    draw = torch.Generator().manual_seed(seed)
    angle = torch.rand(images, lines, 1, 1, generator=draw) * torch.pi
    offset = (torch.rand(images, lines, 1, 1, generator=draw) - 0.5) * _SIDE * 0.8
    width = 1 + torch.rand(images, lines, 1, 1, generator=draw)
    at = torch.arange(_SIDE) - (_SIDE - 1) / 2
    distance = (at[:, None] * angle.cos() + at * angle.sin() - offset).abs()
    masks = (distance <= width / 2).any(dim=1, keepdim=True)
    noise = 0.1 * torch.randn(images, 1, _SIDE, _SIDE, generator=draw)
    return ThinLines((0.6 - 0.3 * masks + noise).clamp(0, 1), masks.float())


class LinearHead(nn.Module):
    """One linear layer on each token, enlarged bilinearly: no decoder at all."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Conv2d(encoder.dim, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 1, H, W) images to logits of the same size."""
        logits = self.head(self.encoder(images).pyramid[0])
        return F.interpolate(logits, size=images.shape[-2:], mode="bilinear", align_corners=False)


class SkipDecoder(nn.Module):
    """A U-Net decoder on the tokens, with skips from convolutions of the image at all finer strides."""

    def __init__(self, encoder: Encoder, *, width: int = 16) -> None:
        super().__init__()
        self.encoder = encoder
        levels = encoder.patch_size.bit_length() - 1
        self.skips = nn.ModuleList(
            ConvNormAct(width if level else encoder.in_channels, width) for level in range(levels)
        )
        self.decoder = UNetDecoder([width] * levels + [encoder.dim], [width] * levels)
        self.head = nn.Conv2d(width, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 1, H, W) images to logits of the same size."""
        x, pyramid = images, []
        for level, skip in enumerate(self.skips):
            x = skip(F.max_pool2d(x, 2) if level else x)
            pyramid.append(x)
        return self.head(self.decoder([*pyramid, self.encoder(images).pyramid[0]]))


def _mean_iou(head: type[LinearHead] | type[SkipDecoder], patch_size: int, seed: int) -> float:
    """Mean IoU, in percent, of line and background after a short training."""
    train, test = thin_lines(800), thin_lines(200, seed=1)
    with without_touching_randomness():
        torch.manual_seed(seed)
        encoder = Adventurer(
            dim=32, depth=2, states=16, head_dim=32, patch_size=patch_size, image_size=_SIDE, in_channels=1
        )
        model = head(encoder)
        fit(
            BceDiceObjective(model),
            train,
            _TRAINING.replace(seed=seed, steps=150, log_every=150),
            progress=False,
        )
        with torch.inference_mode():
            found = torch.cat([model.eval()(part) for part in test.images.split(50)]) > 0
    truth = test.masks > 0
    both = [
        overlap_scores(binary_counts(a.numpy(), b.numpy()))["iou"]
        for a, b in ((found, truth), (~found, ~truth))
    ]
    return 100 * fmean(both)


def decoders_by_patch_size(seeds: int = 2) -> Iterator[Finding]:
    """Thin lines with a linear head and with a decoder, at patch sizes 2 and 16."""
    scores = {
        (size, head.__name__): [_mean_iou(head, size, seed) for seed in range(seeds)]
        for size in (2, 16)
        for head in (LinearHead, SkipDecoder)
    }
    for size, least in ((2, None), (16, 8.0)):
        linear, decoder = scores[size, "LinearHead"], scores[size, "SkipDecoder"]
        gaps = [b - a for a, b in zip(linear, decoder, strict=True)]
        claim = (
            f"thin lines, patch size {size}: points of mIoU of a U-Net decoder over a linear head "
            f"({fmean(decoder):.1f} and {fmean(linear):.1f})"
        )
        yield Finding.at_most(claim, gaps, 2.0) if least is None else Finding.at_least(claim, gaps, least)
