"""What several scales tell a linear probe: small dots, one large blob, and a wider model's features."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from statistics import fmean
from typing import Literal

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.encoders.base import Encoder, create_encoder
from foveal.encoders.multi_scale import MultiScale
from foveal.evaluation.feature_approximation import Approximation, approximate_features
from foveal.recipes.base import Finding, Section

SIDE = 128
Kind = Literal["dots", "blob"]


def _eyes(count: int, seed: int, kind: Kind) -> tuple[Tensor, Tensor]:
    """Round fields (N, 3, 128, 128) with uneven light and texture, of three classes.

    "dots": none, 8 or 24 dark dots of 2 or 3 px. "blob": one dark disc with a radius of 8, 18 or 32 px.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    rows, columns = torch.meshgrid(torch.arange(SIDE) + 0.5, torch.arange(SIDE) + 0.5, indexing="ij")
    centre = SIDE / 2 + 8 * (uniform(count, 2, 1, 1) - 0.5)
    distance = ((rows - centre[:, 0]).square() + (columns - centre[:, 1]).square()).sqrt()
    light = (0.7 + 0.2 * uniform(count, 1, 1)) * (
        1 - (distance / SIDE).square() * (0.5 + uniform(count, 1, 1))
    )
    coarse = torch.randn(count, 1, 16, 16, generator=generator)
    texture = F.interpolate(coarse, size=(SIDE, SIDE), mode="bicubic", align_corners=False)[:, 0]
    image = light + 0.04 * texture + 0.02 * torch.randn(count, SIDE, SIDE, generator=generator)
    labels = torch.randint(0, 3, (count,), generator=generator)
    if kind == "dots":
        for row, label in zip(image, labels, strict=True):
            for angle, radius, large in uniform((0, 8, 24)[int(label)], 3).tolist():
                turn, reach = torch.tensor(2 * torch.pi * angle), 52 * radius**0.5
                top, left = (int(64 + reach * turn.sin()), int(64 + reach * turn.cos()))
                size = 2 + int(large > 0.5)
                row[top : top + size, left : left + size] -= 0.35
    else:
        radius = torch.tensor([8.0, 18.0, 32.0])[labels][:, None, None]
        place = SIDE / 2 + 50 * (uniform(count, 2, 1, 1) - 0.5)
        away = ((rows - place[:, 0]).square() + (columns - place[:, 1]).square()).sqrt()
        image = image - 0.25 * torch.sigmoid((radius - away) / 1.5)
    image = image.where(distance < 60, torch.zeros(()))
    return torch.stack([image, 0.6 * image, 0.3 * image], dim=1).clamp(0, 1), labels


def _random_encoder(seed: int, dim: int, depth: int) -> Encoder:
    """A frozen transformer (patch 16) of random weights whose scale keeps variance, so that it is not "
    "linear."""
    torch.manual_seed(seed)
    encoder = create_encoder(
        "timm/vit_tiny_patch16_224", image_size=SIDE, embed_dim=dim, depth=depth, num_heads=4
    )
    for module in encoder.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
    return encoder


@torch.inference_mode()
def _features(encoder: Encoder, images: Tensor, scales: tuple[float, ...]) -> Tensor:
    model = MultiScale(encoder=encoder, scales=scales, frozen=True, tile_batch=64).eval()
    return torch.cat([model((part - 0.4) / 0.25).patches for part in images.split(64)])


def _pooled(tokens: Tensor) -> Tensor:
    return torch.cat([tokens.mean(dim=1), tokens.std(dim=1)], dim=1)


def _probe(features: Tensor, labels: Tensor, test_features: Tensor, test_labels: Tensor) -> float:
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500))
    probe.fit(_pooled(features).numpy(), labels.numpy())
    return float(probe.score(_pooled(test_features).numpy(), test_labels.numpy()))


def probes(seeds: int = 2, train: int = 300, test: int = 250) -> Iterator[Finding | Section]:
    """Linear probes on tokens of scales 1, 2 and 4 beside scale 1: dots gain, a large blob does not."""
    dim = 48
    scores: dict[tuple[Kind, str], list[float]] = defaultdict(list)
    kinds: tuple[Kind, ...] = ("dots", "blob")
    for seed in range(seeds):
        encoder, *others = (_random_encoder(3 * seed + index, dim, 1) for index in range(3))
        for kind in kinds:
            images, labels = _eyes(train, 2 * seed, kind)
            test_images, test_labels = _eyes(test, 2 * seed + 1, kind)
            several, test_several = (_features(encoder, x, (1, 2, 4)) for x in (images, test_images))
            single, test_single = several[..., :dim], test_several[..., :dim]  # scale 1 comes first
            wider, test_wider = (
                torch.cat([first, *(_features(other, x, (1,)) for other in others)], dim=-1)
                for first, x in ((single, images), (test_single, test_images))
            )
            for name, own, tested in (
                ("scale 1", single, test_single),
                ("scales 1, 2, 4", several, test_several),
                ("scale 1 of three encoders", wider, test_wider),
            ):
                scores[kind, name].append(_probe(own, labels, tested, test_labels))
    gains = {
        kind: [a - b for a, b in zip(scores[kind, "scales 1, 2, 4"], scores[kind, "scale 1"], strict=True)]
        for kind in kinds
    }
    yield Finding.at_least(
        "counting dots of 2 to 3 px, linear probe: accuracy at scales 1, 2, 4 minus scale 1",
        gains["dots"],
        0.08,
    )
    yield Finding.close(
        "sizing one large blob, linear probe: accuracy at scales 1, 2, 4 minus scale 1",
        gains["blob"],
        0.0,
        tolerance=0.01,
    )
    lines = [
        "Frozen transformers of random weights, 8 x 8 tokens; mean and spread of the tokens to a linear "
        f"probe on {train} images, mean accuracy over {seeds} seeds. Three encoders at scale 1 have as "
        "many channels as one at three scales.",
        "",
        "| features | dots | blob |",
        "|---|---|---|",
    ]
    for name in ("scale 1", "scale 1 of three encoders", "scales 1, 2, 4"):
        cells = " | ".join(f"{fmean(scores[kind, name]):.3f}" for kind in kinds)
        lines.append(f"| {name} | {cells} |")
    yield Section("Linear probes", "\n".join(lines) + "\n")


def approximates_a_wider_model(train: int = 100, test: int = 50) -> Iterator[Finding | Section]:
    """A linear map from a small model's features to a wider one's, on images that were held out.

    Only the middle 4 x 4 of the 8 x 8 tokens count, which lie in the field: that black differs from lit is
    most of the variance elsewhere, and anything tells it.
    """
    images, _ = _eyes(train, 100, "dots")
    test_images, _ = _eyes(test, 101, "dots")
    small, wide, second = (_random_encoder(seed, dim, 2) for seed, dim in ((0, 32), (9, 128), (10, 128)))

    def inside(encoder: Encoder, images: Tensor, scales: tuple[float, ...]) -> Tensor:
        tokens = _features(encoder, images, scales).unflatten(1, (8, 8))
        return tokens[:, 2:6, 2:6].flatten(1, 2)

    targets, test_targets = inside(wide, images, (1,)), inside(wide, test_images, (1,))

    def reached(encoder: Encoder, scales: tuple[float, ...]) -> Approximation:
        inputs, test_inputs = inside(encoder, images, scales), inside(encoder, test_images, scales)
        return approximate_features(inputs, targets, test_inputs, test_targets)

    one, two, reference = reached(small, (1,)), reached(small, (1, 2)), reached(second, (1,))
    yield Finding.at_least(
        f"R^2 of a wider model's features: scales 1, 2 ({two.explained:.3f}) minus scale 1 "
        f"({one.explained:.3f})",
        two.explained - one.explained,
        0.05,
    )
    nothing = approximate_features(
        torch.zeros_like(targets[..., :1]), targets, torch.zeros_like(test_targets[..., :1]), test_targets
    )
    yield Finding.close("R^2 of the constant predictor", nothing.explained, 0.0, tolerance=1e-9)
    lines = [
        "| features | R^2 | -log(1 - R^2) | share of a second wide model's |",
        "|---|---|---|---|",
    ]
    for name, result in (
        ("small, scale 1", one),
        ("small, scales 1, 2", two),
        ("second wide model", reference),
    ):
        share = result.relative_to(reference)
        lines.append(f"| {name} | {result.explained:.3f} | {result.information:.3f} | {share:.2f} |")
    body = (
        "Transformers of random weights: 32 channels, and 128 for the wide ones; held-out synthetic fields."
    )
    yield Section("How much of a wider model's features is told", body + "\n\n" + "\n".join(lines) + "\n")
