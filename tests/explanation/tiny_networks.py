"""A network with traps, beside the tiny ones of the recipe `torchesegeta`."""

import os
import time

import torch
from torch import Tensor, nn

from foveal.recipes._torchesegeta_networks import KINDS, methods_for, small_options, tiny_network

__all__ = ["KINDS", "Trap", "methods_for", "small_options", "tiny_network"]


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
