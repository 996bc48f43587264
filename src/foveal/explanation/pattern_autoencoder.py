"""A small convolutional autoencoder of attention patterns (Li et al., arXiv 2303.13731)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.objectives.base import Batch, Objective

CHANNELS = (16, 32, 64, 128)


class PatternAutoencoder(nn.Module):
    """Patterns (B, 1, X, Y) in [0, 1] to codes (B, latent) and back.

    Convolutions of stride 2 with batch normalisation and ReLU, as many as leave at least 3 values along the
    shorter side but four at most, a linear map, and the same mirrored.

    Args:
        shape: (X, Y).
        latent: length of a code.
    """

    def __init__(self, shape: tuple[int, int], *, latent: int = 32) -> None:
        super().__init__()
        self.shape = shape
        stages = min(len(CHANNELS), max(1, int(math.log2(max(2, min(shape) / 3)))))
        sizes = [shape]
        for _ in range(stages):
            sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
        widths = (1, *CHANNELS[:stages])
        self.sizes, self.widths = sizes, widths
        self.down = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(widths[k], widths[k + 1], 3, stride=2, padding=1),
                    nn.BatchNorm2d(widths[k + 1]),
                    nn.ReLU(),
                )
                for k in range(stages)
            )
        )
        flat = widths[-1] * math.prod(sizes[-1])
        self.to_code = nn.Linear(flat, latent)
        self.from_code = nn.Linear(latent, flat)
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(widths[k + 1], widths[k], 3, stride=2, padding=1)
            for k in reversed(range(stages))
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(widths[k]) for k in reversed(range(1, stages)))

    def encode(self, patterns: Tensor) -> Tensor:
        """(B, 1, X, Y) to (B, latent)."""
        return self.to_code(self.down(patterns).flatten(1))

    def decode(self, codes: Tensor) -> Tensor:
        """(B, latent) to (B, 1, X, Y)."""
        x = self.from_code(codes).relu().unflatten(1, (self.widths[-1], *self.sizes[-1]))
        for k, layer in enumerate(self.up):
            x = layer(x, output_size=self.sizes[-2 - k])
            if k < len(self.norms):
                x = self.norms[k](x).relu()
        return x

    def forward(self, patterns: Tensor) -> Tensor:
        """The reconstruction."""
        return self.decode(self.encode(patterns))

    @torch.no_grad()
    def codes_and_error(self, patterns: Tensor, *, batch_size: int = 512) -> tuple[Tensor, float]:
        """Codes (S, latent) of patterns (S, X, Y), and the error of what they decode to.

        The mean squared error is told over that of the mean pattern; 0 where all patterns are equal and met.
        """
        total = torch.zeros(self.shape, dtype=torch.float64)
        for part in patterns.split(batch_size):
            total += part.double().sum(dim=0)
        mean = (total / len(patterns)).float()
        codes, lost, spread = [], 0.0, 0.0
        for part in patterns.split(batch_size):
            x = part.float()[:, None]
            codes.append(self.encode(x))
            lost += float((self.decode(codes[-1]) - x).square().sum())
            spread += float((x - mean).square().sum())
        return torch.cat(codes), lost / spread if spread else (float("inf") if lost > 1e-6 else 0.0)


class Reconstruction(Objective):
    """Mean squared error of an autoencoder. Batch key: `patterns` (B, 1, X, Y)."""

    def __init__(self, autoencoder: PatternAutoencoder) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Loss `loss`."""
        return {"loss": F.mse_loss(self.autoencoder(batch["patterns"]), batch["patterns"])}


class _Patterns:
    """Patterns as training samples."""

    def __init__(self, patterns: Tensor) -> None:
        self.patterns = patterns

    def __len__(self) -> int:
        return len(self.patterns)

    def sample(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        return {"patterns": self.patterns[index][None].float()}


def train_autoencoder(
    patterns: Tensor,
    *,
    latent: int = 32,
    epochs: int = 50,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    seed: int = 0,
) -> PatternAutoencoder:
    """Train an autoencoder of patterns (S, X, Y), S >= 2, by Adam at one learning rate.

    Returns:
        It, in evaluation mode.
    """
    from foveal.training import TrainingSettings, fit
    from foveal.training.randomness import without_touching_randomness

    batch_size = min(batch_size, len(patterns))
    steps = epochs * math.ceil(len(patterns) / batch_size)
    settings = TrainingSettings(
        steps=steps,
        batch_size=batch_size,
        optimizer="adam",
        learning_rate=learning_rate,
        weight_decay=0.0,
        schedule="constant",
        seed=seed,
        log_every=steps,
        tensorboard=False,
    )
    with without_touching_randomness():
        torch.manual_seed(seed)
        autoencoder = PatternAutoencoder((patterns.shape[1], patterns.shape[2]), latent=latent)
        fit(Reconstruction(autoencoder), _Patterns(patterns), settings, progress=False)
    return autoencoder.cpu().eval()
