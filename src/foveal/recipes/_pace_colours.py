"""Pictures whose concepts are known: blocks of two colours a class, some black (PACE, arXiv 2406.12649)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from foveal.encoders import create_encoder
from foveal.recipes._encoder_learning import Learned, LearningData, learn

COLOURS = ("red", "yellow", "blue", "green", "black")
PATCH = 4  # pixels
_RGB = ((0.9, 0.1, 0.1), (0.9, 0.9, 0.1), (0.1, 0.1, 0.9), (0.1, 0.8, 0.1), (0.02, 0.02, 0.02))


@dataclass(frozen=True, eq=False)
class ColourPictures:
    """Pictures with the colour of each patch.

    Attributes:
        data: images (N, 3, S, S) in [0, 1]; class 0 is red and yellow, class 1 blue and green.
        patches: (M, S / 4, S / 4) number of the colour of each patch of the test images.
    """

    data: LearningData
    patches: Tensor


@cache
def colour_pictures(
    train: int = 300, test: int = 150, *, side: int = 32, noise: float = 0.08, seed: int = 0
) -> ColourPictures:
    """2 x 2 blocks, each of either colour of the class, none to two of them black, with Gaussian noise."""
    generator = torch.Generator().manual_seed(seed)
    count = train + test
    labels = torch.arange(count) % 2
    blocks = 2 * labels[:, None] + torch.randint(2, (count, 4), generator=generator)
    black = torch.randint(3, (count, 1), generator=generator)
    rank = torch.rand(count, 4, generator=generator).argsort(dim=1)
    blocks = torch.where(rank < black, torch.full_like(blocks, 4), blocks).view(count, 2, 2)
    patches = blocks.repeat_interleave(side // 2 // PATCH, dim=1).repeat_interleave(side // 2 // PATCH, dim=2)
    pixels = patches.repeat_interleave(PATCH, dim=1).repeat_interleave(PATCH, dim=2)
    images = torch.tensor(_RGB)[pixels].movedim(-1, 1)
    images = (images + noise * torch.randn(images.shape, generator=generator)).clamp(0, 1)
    data = LearningData(images[:train], labels[:train], images[train:], labels[train:])
    return ColourPictures(data, patches[train:])


@cache
def trained_on_colours(seed: int = 0, *, steps: int = 60) -> Learned:
    """A ViT of three blocks over 8 x 8 patches that tells the classes apart."""
    settings = {"image_size": 32, "patch_size": PATCH, "embed_dim": 32, "depth": 3, "num_heads": 2}
    return learn(
        lambda: create_encoder("timm/vit_tiny_patch16_224", **settings),
        colour_pictures().data,
        steps=steps,
        batch_size=32,
        seed=seed,
    )


class WithColours(nn.Module):
    """A classifier beside the mean colour of each patch, as layer `colours`, (B, 3, S / 4, S / 4)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.colours = model.eval(), nn.AvgPool2d(PATCH)

    def forward(self, images: Tensor) -> Tensor:
        """The classifier's logits."""
        self.colours(images)
        return self.model(images)
