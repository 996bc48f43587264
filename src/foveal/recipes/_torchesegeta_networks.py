"""Tiny networks and volumes of vessels, on which the recipe of TorchEsegeta is proved."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional as F

SHAPES = {2: (1, 16, 20), 3: (1, 8, 10, 12)}
KINDS = ("2-D classifier", "3-D classifier", "2-D segmenter", "3-D segmenter")


def tiny_network(kind: str, *, seed: int = 0) -> tuple[nn.Module, Tensor, int]:
    """A network in evaluation mode, two images for it, and a class that both hold."""
    torch.manual_seed(seed)
    dimensions = int(kind[0])
    conv: Any = nn.Conv2d if dimensions == 2 else nn.Conv3d
    norm: Any = nn.BatchNorm2d if dimensions == 2 else nn.BatchNorm3d
    pool: Any = nn.AdaptiveAvgPool2d if dimensions == 2 else nn.AdaptiveAvgPool3d
    body = [conv(1, 6, 3, padding=1), norm(6), nn.ReLU(inplace=True), conv(6, 6, 3, padding=1), nn.ReLU()]
    head = [pool(1), nn.Flatten(), nn.Linear(6, 3)] if kind.endswith("classifier") else [conv(6, 3, 1)]
    network = nn.Sequential(*body, *head).eval()
    images = torch.rand(2, *SHAPES[dimensions])
    with torch.no_grad():
        found = network(images)
        if found.ndim > 2:  # every class somewhere
            head[0].bias -= found.mean(dim=(0, *range(2, found.ndim)))
    return network, images, 1


def methods_for(kind: str) -> list[str]:
    """Names of the methods that explain such a network: all but those of attention or with a training of
    their own, and on volumes but `salient-relevance`, which is of images."""
    from foveal.explanation.methods import find_method, list_methods

    families = ("gradient", "perturbation", "layer map", "propagation")
    names = [name for name in list_methods() if find_method(name).family in families]
    return [name for name in names if kind.startswith("2-D") or name != "salient-relevance"]


def small_options(name: str) -> dict[str, Any]:
    """Options that make a method cheap on `tiny_network`, and those that it must have."""
    from foveal.explanation.methods import find_method

    small = {"samples": 8, "steps": 4, "segments": 6, "masks": 16, "backgrounds": 2}
    found: dict[str, Any] = {key: n for key, n in small.items() if key in find_method(name).options}
    if name == "layer-guided-backprop":
        found["layer"] = "0"
    return found


class VesselNet(nn.Module):
    """A U-Net with two scales and 9 thousand parameters: (B, 1, X, Y, Z) to logits of that shape."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.fine = _block(1, width)
        self.coarse = _block(width, 2 * width)
        self.joined = _block(3 * width, width)
        self.head = nn.Conv3d(width, 1, 1)

    def forward(self, volumes: Tensor) -> Tensor:
        """Logits of vessel."""
        fine = self.fine(volumes)
        coarse = self.coarse(F.max_pool3d(fine, 2))
        large = F.interpolate(coarse, size=fine.shape[2:], mode="trilinear", align_corners=False)
        return self.head(self.joined(torch.cat([fine, large], dim=1)))


def _block(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Conv3d(inputs, outputs, 3, padding=1), nn.BatchNorm3d(outputs), nn.ReLU())


@cache
def vessels_in_noise(count: int, *, side: int = 24, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Volumes (count, 1, side, side, side) of bright tubes in noise, and where the tubes are, in {0, 1}."""
    random = np.random.default_rng(seed)
    grid = np.moveaxis(np.mgrid[:side, :side, :side], 0, -1).astype(float)
    volumes, masks = [], []
    for _ in range(count):
        mask = np.zeros((side,) * 3, dtype=bool)
        for _ in range(3):
            through, along = random.uniform(0.25, 0.75, 3) * side, random.normal(size=3)
            along /= np.linalg.norm(along)
            across = np.cross(along, random.normal(size=3))
            across /= np.linalg.norm(across)
            offset = grid - through
            place = offset @ along
            bend = 2.5 * np.sin(place / random.uniform(3, 6))[..., None] * across
            from_line = offset - place[..., None] * along - bend
            mask |= np.linalg.norm(from_line, axis=-1) < random.uniform(1.1, 1.6)
        soft = ndimage.gaussian_filter(mask.astype(float), 0.6)
        volumes.append(0.3 + 0.5 * soft + random.normal(scale=0.15, size=mask.shape))
        masks.append(mask)
    x, y = (torch.from_numpy(np.stack(arrays)).float()[:, None] for arrays in (volumes, masks))
    return x, y


def trained_vessel_net(*, seed: int = 0, steps: int = 80) -> VesselNet:
    """A `VesselNet` after a short training on 40 volumes with cross-entropy and Dice; in evaluation mode."""
    from foveal.objectives.image_dice import BceImageDiceObjective
    from foveal.training import TrainingSettings, fit
    from foveal.training.randomness import without_touching_randomness

    settings = TrainingSettings(
        steps=steps, batch_size=4, learning_rate=1e-2, warmup_fraction=0.1, seed=seed, log_every=steps,
        tensorboard=False,
    )  # fmt: skip
    with without_touching_randomness():
        torch.manual_seed(seed)
        network = VesselNet()
        fit(BceImageDiceObjective(network), _Volumes(40), settings, progress=False)
    return network.eval()


class _Volumes:
    def __init__(self, count: int) -> None:
        self.volumes, self.masks = vessels_in_noise(count)

    def __len__(self) -> int:
        return len(self.volumes)

    def sample(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        """One volume with its mask, flipped at random."""
        axes = [axis for axis in (-3, -2, -1) if torch.rand((), generator=generator) < 0.5]
        return {"images": self.volumes[index].flip(axes), "masks": self.masks[index].flip(axes)}


def described(found: dict[str, float]) -> str:
    """Names with their values, for a finding."""
    return ", ".join(f"{name} {value:.3g}" for name, value in found.items())
