"""The four kinds of network that every method explains: classifiers and segmenters, of images and volumes."""

import os
import time

import torch
from torch import Tensor, nn

SHAPES = {2: (1, 16, 20), 3: (1, 8, 10, 12)}
KINDS = ["2-D classifier", "3-D classifier", "2-D segmenter", "3-D segmenter"]


def tiny_network(kind: str, *, seed: int = 0) -> tuple[nn.Module, Tensor, int]:
    """A network in evaluation mode, two images for it, and a class that both hold."""
    torch.manual_seed(seed)
    dimensions = int(kind[0])
    conv, norm, pool = {
        2: (nn.Conv2d, nn.BatchNorm2d, nn.AdaptiveAvgPool2d),
        3: (nn.Conv3d, nn.BatchNorm3d, nn.AdaptiveAvgPool3d),
    }[dimensions]
    body = [conv(1, 6, 3, padding=1), norm(6), nn.ReLU(inplace=True), conv(6, 6, 3, padding=1), nn.ReLU()]
    head = [pool(1), nn.Flatten(), nn.Linear(6, 3)] if kind.endswith("classifier") else [conv(6, 3, 1)]
    network = nn.Sequential(*body, *head).eval()
    images = torch.rand(2, *SHAPES[dimensions])
    with torch.no_grad():
        found = network(images)
        if found.ndim > 2:  # every class somewhere
            head[0].bias -= found.mean(dim=(0, *range(2, found.ndim)))
    return network, images, 1


class Trap(nn.Module):
    """Sleeps for ever on more than ten images, ends its process on just five, and else classifies."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv2d(1, 4, 3), nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        if len(images) > 10:
            time.sleep(3600)
        if len(images) == 5:
            os._exit(9)
        return self.head(torch.relu(self.conv(images)).mean((2, 3)))
