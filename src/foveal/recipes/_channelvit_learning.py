"""Learning with missing channels: ChannelViT and a plain ViT, with and without channel sampling."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.blocks.channel_tokens import ABSENT, Sampling, draw_channels
from foveal.encoders.base import Encoder, create_encoder
from foveal.evaluation.channel_subsets import SubsetScores, evaluate_all_subsets
from foveal.explanation.channel_relevance import channel_relevance, channel_shares
from foveal.objectives.base import Batch, Objective
from foveal.recipes._encoder_learning import Learned, LearningData, learn
from foveal.recipes.base import Finding, Section

CHANNELS = 4
STEPS = 300


def _four_channels(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images (N, 4, 32, 32) of nine classes: two channels hold a part of the evidence each, two repeat them.

    Three textures stand for values; channel 0 shows class // 3 and channel 1 class % 3 in noise, channels 2
    and 3 show the same in half as much noise again. So no pair {0, 2} or {1, 3} tells more than a third.
    """
    textures = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(99)).repeat(1, 4, 4)
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 9, (count,), generator=generator)
    parts = torch.stack([labels // 3, labels % 3] * 2, dim=1)
    noise = torch.randn(count, CHANNELS, 32, 32, generator=generator)
    spread = torch.tensor([4.0, 4.0, 6.0, 6.0]).reshape(1, CHANNELS, 1, 1)
    return textures[parts] + spread * noise, labels


def _data(seed: int) -> LearningData:
    return LearningData(*_four_channels(1500, 2 * seed), *_four_channels(500, 2 * seed + 1))


def _encoder(kind: str, sampling: Sampling) -> Encoder:
    shape = {"image_size": 32, "patch_size": 8}
    if kind == "ChannelViT":
        settings = {"dim": 32, "depth": 2, "heads": 2, "in_channels": CHANNELS}
        return create_encoder("channelvit", **settings, **shape, sampling=sampling)
    return create_encoder(
        "masked-channels",
        encoder="timm/vit_tiny_patch16_224",
        encoder_settings={"embed_dim": 32, "depth": 2, "num_heads": 2, **shape},
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


def missing_channels(seeds: int = 2) -> Iterator[Finding | Section]:
    """Accuracy with all channels and with some, of two networks and three ways of sampling."""
    runs: dict[str, list[SubsetScores]] = defaultdict(list)
    shares: list[float] = []
    for seed in range(seeds):
        data = _data(seed)
        for name, kind, sampling in (
            ("ChannelViT + HCS", "ChannelViT", "hcs"),
            ("ChannelViT", "ChannelViT", "none"),
            ("ChannelViT + channel dropout", "ChannelViT", "dropout"),
            ("ViT + HCS", "ViT", "hcs"),
            ("ViT", "ViT", "none"),
        ):
            options: dict[str, Any] = {"steps": STEPS, "batch_size": 32, "learning_rate": 3e-3, "seed": seed}
            learned = learn(lambda k=kind, s=sampling: _encoder(k, s), data, **options)  # type: ignore[misc]
            runs[name].append(_scores(learned, data))
            if name == "ChannelViT + HCS":
                shares.append(_share_of_cleaner_channels(learned, data))

    def means(name: str, size: int) -> list[float]:
        return [scores.by_size()[size][0] for scores in runs[name]]

    def gains(name: str, other: str, size: int) -> list[float]:
        return [a - b for a, b in zip(means(name, size), means(other, size), strict=True)]

    full = gains("ChannelViT + HCS", "ViT + HCS", CHANNELS)
    yield Finding.at_least("accuracy with all 4 channels: ChannelViT minus ViT, both with HCS", full, -0.01)
    for name in ("ChannelViT", "ViT"):
        gain = gains(f"{name} + HCS", name, 2)
        yield Finding.at_least(f"accuracy with 2 of 4 channels: {name}, HCS minus without", gain, 0.10)
    gain = gains("ChannelViT + HCS", "ChannelViT", 3)
    yield Finding.at_least("accuracy with 3 of 4 channels: ChannelViT, HCS minus without", gain, 0.0)
    gain = gains("ChannelViT + HCS", "ViT + HCS", 2)
    yield Finding.at_least("accuracy with 2 of 4 channels: ChannelViT minus ViT, both with HCS", gain, 0.03)
    worst = [
        a.worst()[1] - b.worst()[1]
        for a, b in zip(runs["ChannelViT + HCS"], runs["ChannelViT + channel dropout"], strict=True)
    ]
    yield Finding.at_least("accuracy with the worst subset: HCS minus channel dropout", worst, 0.0)
    yield Finding.at_least("relevance of the two channels with less noise, ChannelViT + HCS", shares, 0.5)
    yield Section("Accuracy by number of channels", _table(runs))


def _table(runs: dict[str, list[SubsetScores]]) -> str:
    lines = [
        f"Nine classes, {STEPS} steps of 32 images; mean over the subsets of a size and over "
        f"{len(next(iter(runs.values())))} seeds. Two channels tell at most 0.78: two of their six pairs "
        "hold one part of the evidence twice. The plain ViT rescales its input by C / m at test time as "
        "well.",
        "",
        "| network | 1 | 2 | 3 | 4 | worst subset |",
        "|---|---|---|---|---|---|",
    ]
    for name, scores in runs.items():
        cells = [sum(s.by_size()[size][0] for s in scores) / len(scores) for size in range(1, CHANNELS + 1)]
        cells.append(sum(s.worst()[1] for s in scores) / len(scores))
        lines.append(f"| {name} | {' | '.join(f'{cell:.3f}' for cell in cells)} |")
    return "\n".join(lines) + "\n"


def _share_of_cleaner_channels(learned: Learned, data: LearningData) -> float:
    """Part of the relevance for the true class that falls on channels 0 and 1."""
    model, labels = learned.model, data.test_labels[:100]
    images = (data.test_images[:100] - model.mean) / model.std
    relevance = channel_relevance(
        model.encoder,  # type: ignore[arg-type]
        images,
        lambda pooled: model.head(pooled).gather(1, labels[:, None])[:, 0],
    )
    return float(channel_shares(relevance)[:, :2].sum(dim=1).mean())


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
    data = _data(0)
    found = {}
    for share in (0.25, 0.5, 0.75, 1.0):
        generator = torch.Generator().manual_seed(1)
        channels = torch.full((len(data), CHANNELS), ABSENT)
        complete = torch.rand(len(data), generator=generator) < share
        for row, whole in zip(channels, complete, strict=True):
            kept = draw_channels(CHANNELS, mode="none" if whole else "hcs", generator=generator)
            row[kept] = kept
        partial = _IncompleteData(data.images, data.labels, data.test_images, data.test_labels, channels)
        learned = learn(
            lambda: _encoder("ChannelViT", "hcs"),
            partial,
            steps=STEPS,
            batch_size=32,
            learning_rate=3e-3,
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
