"""Learning with missing channels: ChannelViT and a plain ViT, with and without channel sampling."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.blocks.channel_tokens import ABSENT, Sampling, draw_channels
from foveal.encoders.base import Encoder, create_encoder
from foveal.encoders.channelvit import ChannelViT
from foveal.evaluation.channel_subsets import SubsetScores, evaluate_all_subsets
from foveal.explanation.channel_relevance import channel_relevance, channel_shares
from foveal.objectives.base import Batch, Objective
from foveal.recipes._encoder_learning import Learned, LearningData, digits, learn
from foveal.recipes.base import Finding, Section

CHANNELS = 4
STEPS = {"digits": 800, "textures": 400}
_NETWORKS: tuple[tuple[str, str, Sampling], ...] = (
    ("ChannelViT + HCS", "ChannelViT", "hcs"),
    ("ChannelViT", "ChannelViT", "none"),
    ("ChannelViT + channel dropout", "ChannelViT", "dropout"),
    ("ViT + HCS", "ViT", "hcs"),
    ("ViT", "ViT", "none"),
)


def textures(seed: int) -> LearningData:
    """Synthetic images (N, 4, 32, 32) of nine classes: two channels hold a part of it each, two repeat them.

    Three textures stand for values; channel 0 shows class // 3 and channel 1 class % 3 in noise, channels 2
    and 3 show the same in half as much noise again. So no pair {0, 2} or {1, 3} tells more than a third.
    """
    shown = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(99)).repeat(1, 4, 4)
    generator = torch.Generator().manual_seed(seed)
    spread = torch.tensor([4.0, 4.0, 6.0, 6.0]).reshape(1, CHANNELS, 1, 1)

    def draw(count: int) -> tuple[Tensor, Tensor]:
        labels = torch.randint(0, 9, (count,), generator=generator)
        parts = torch.stack([labels // 3, labels % 3] * 2, dim=1)
        noise = torch.randn(count, CHANNELS, 32, 32, generator=generator)
        return shown[parts] + spread * noise, labels

    return LearningData(*draw(1500), *draw(500))


def halved_digits(seed: int) -> LearningData:
    """Real digits (N, 4, 32, 32): upper half, lower half, the upper half again in noise, and noise alone."""
    data = digits(32, seed=seed)
    generator = torch.Generator().manual_seed(seed)

    def channels(images: Tensor) -> Tensor:
        upper, lower = images.clone(), images.clone()
        upper[:, :, 16:], lower[:, :, :16] = 0, 0
        noise = torch.randn(len(images), 2, 32, 32, generator=generator) / 2
        stacked = torch.cat([upper, lower, upper + noise[:, :1], noise[:, 1:] + 0.5], dim=1)
        return stacked.clamp(-2, 3)

    return LearningData(channels(data.images), data.labels, channels(data.test_images), data.test_labels)


def _encoder(kind: str, sampling: Sampling) -> Encoder:
    shape = {"image_size": 32, "patch_size": 8}
    if kind == "ChannelViT":
        settings = {"dim": 48, "depth": 2, "heads": 3, "in_channels": CHANNELS}
        return create_encoder("channelvit", **settings, **shape, sampling=sampling)
    return create_encoder(
        "masked-channels",
        encoder="timm/vit_tiny_patch16_224",
        encoder_settings={"embed_dim": 48, "depth": 2, "num_heads": 3, **shape},
        in_channels=CHANNELS,
        sampling=sampling,
    )


def _scores(learned: Learned, data: LearningData) -> SubsetScores:
    """Accuracy with every subset of the channels."""
    model = learned.model
    images = (data.test_images - model.mean) / model.std

    @torch.inference_mode()
    def accuracy(subset: tuple[int, ...]) -> float:
        channels = list(subset)
        found = model.head(model.encoder(images[:, channels], channels).pooled).argmax(dim=1)
        return float((found == data.test_labels).float().mean())

    return evaluate_all_subsets(accuracy, CHANNELS)


def _learn(make_encoder: Callable[[], Encoder], data: LearningData, **options: Any) -> Learned:
    return learn(make_encoder, data, batch_size=32, learning_rate=2e-3, **options)


def on_digits(seeds: int = 2) -> Iterator[Finding | Section]:
    """Accuracy on real digits with all channels and with some."""
    yield from _missing_channels("digits", [halved_digits(seed) for seed in range(seeds)])


def on_textures(seeds: int = 1) -> Iterator[Finding | Section]:
    """Accuracy on synthetic textures with all channels and with some."""
    yield from _missing_channels("textures", [textures(seed) for seed in range(seeds)])


def _missing_channels(name: str, data: list[LearningData]) -> Iterator[Finding | Section]:
    """Two networks and three ways of sampling, with every subset of the channels; a data set a seed."""
    runs: dict[str, list[SubsetScores]] = defaultdict(list)
    shares: list[float] = []
    for seed, images in enumerate(data):
        for network, kind, sampling in _NETWORKS:
            learned = _learn(partial(_encoder, kind, sampling), images, steps=STEPS[name], seed=seed)
            runs[network].append(_scores(learned, images))
            if network == "ChannelViT + HCS":
                shares.append(_share_of_the_last_channel(learned, images))

    def gains(one: str, other: str, of: Callable[[SubsetScores], float]) -> list[float]:
        return [of(a) - of(b) for a, b in zip(runs[one], runs[other], strict=True)]

    def mean(size: int) -> Callable[[SubsetScores], float]:
        return lambda scores: scores.by_size()[size][0]

    gain = gains("ChannelViT + HCS", "ViT + HCS", mean(CHANNELS))
    yield Finding.at_least(
        f"{name}, all 4 channels: accuracy of ChannelViT minus ViT, both with HCS", gain, -0.01
    )
    for kind in ("ChannelViT", "ViT"):
        gain = gains(f"{kind} + HCS", kind, mean(2))
        yield Finding.at_least(f"{name}, 2 of 4 channels: accuracy of {kind}, HCS minus without", gain, 0.10)
    gain = gains("ChannelViT + HCS", "ViT + HCS", mean(2))
    yield Finding.at_least(
        f"{name}, 2 of 4 channels: accuracy of ChannelViT minus ViT, both with HCS", gain, 0.03
    )
    # The worst subset of all is a single channel that tells nothing, with which every network guesses.
    gain = gains("ChannelViT + HCS", "ChannelViT + channel dropout", lambda scores: scores.worst(2)[1])
    yield Finding.at_least(f"{name}, the worst 2 of 4 channels: HCS minus channel dropout", gain, 0.0)
    if name == "digits":  # whose last channel is noise alone
        yield Finding.at_most(
            "digits: share of the noise channel in the relevance for the class", shares, 0.25
        )
    yield Section(f"Accuracy by number of channels: {name}", _table(runs, STEPS[name]))


def _table(runs: dict[str, list[SubsetScores]], steps: int) -> str:
    seeds = len(next(iter(runs.values())))
    lines = [
        f"{steps} steps of 32 images; mean over the subsets of a size and over {seeds} seeds. The plain "
        "ViT rescales its input by C / m at test time as well.",
        "",
        "| network | 1 | 2 | 3 | 4 | worst pair |",
        "|---|---|---|---|---|---|",
    ]
    for name, scores in runs.items():
        cells = [sum(s.by_size()[size][0] for s in scores) / len(scores) for size in range(1, CHANNELS + 1)]
        cells.append(sum(s.worst(2)[1] for s in scores) / len(scores))
        lines.append(f"| {name} | {' | '.join(f'{cell:.3f}' for cell in cells)} |")
    return "\n".join(lines) + "\n"


def _share_of_the_last_channel(learned: Learned, data: LearningData) -> float:
    model, labels = learned.model, data.test_labels[:100]
    relevance = channel_relevance(
        cast(ChannelViT, model.encoder),
        (data.test_images[:100] - model.mean) / model.std,
        lambda pooled: model.head(pooled).gather(1, labels[:, None])[:, 0],
    )
    return float(channel_shares(relevance)[:, -1].mean())


@dataclass(frozen=True)
class _IncompleteData(LearningData):
    """Images of which some have lost channels; `channels` (N, C) are their indices."""

    channels: Tensor

    def sample(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        """One training image with its label and its channels."""
        return {**super().sample(index, generator), "channels": self.channels[index]}


class _ChannelObjective(Objective):
    """Cross-entropy of images whose channels are told."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The mean loss."""
        images = (batch["images"] - self.model.mean) / self.model.std
        logits = self.model.head(self.model.encoder(images, batch["channels"]).pooled)
        return {"loss": F.cross_entropy(logits, batch["labels"])}


def incomplete_training() -> Iterator[Finding | Section]:
    """Training on images of which a part lacks channels, each image with its own."""
    data = textures(0)
    found = {}
    for share in (0.25, 0.5, 1.0):
        generator = torch.Generator().manual_seed(1)
        channels = torch.full((len(data), CHANNELS), ABSENT)
        complete = torch.rand(len(data), generator=generator) < share
        for row, whole in zip(channels, complete, strict=True):
            kept = draw_channels(CHANNELS, mode="none" if whole else "hcs", generator=generator)
            row[kept] = kept
        partial_data = _IncompleteData(data.images, data.labels, data.test_images, data.test_labels, channels)
        learned = _learn(
            partial(_encoder, "ChannelViT", "hcs"),
            partial_data,
            steps=STEPS["textures"],
            make_objective=_ChannelObjective,
        )
        found[share] = _scores(learned, data).by_size()
    drop = found[1.0][CHANNELS][0] - found[0.5][CHANNELS][0]
    claim = "half of the training images lack channels: accuracy lost with all 4 channels at test"
    yield Finding.at_most(claim, drop, 0.1)
    lines = ["| share with all channels | 1 | 2 | 3 | 4 |", "|---|---|---|---|---|"]
    for share, sizes in found.items():
        cells = " | ".join(f"{sizes[size][0]:.3f}" for size in range(1, CHANNELS + 1))
        lines.append(f"| {share:.0%} | {cells} |")
    body = (
        "Accuracy by number of channels at test, after training on images of which only a share is complete."
    )
    yield Section("Incomplete training images", body + "\n\n" + "\n".join(lines) + "\n")
