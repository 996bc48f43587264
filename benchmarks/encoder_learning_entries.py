"""Encoders of about equal size: widths chosen so that each comes near a wanted number of parameters."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from foveal.encoders import base
from foveal.models.networks import create_network

IMAGE_SIZE, PATCH_SIZE, DEPTH, STAGE_DEPTHS = 32, 4, 4, (1, 1, 2, 1)
WRAPPERS = {
    "denoised": "cleans the tokens of another encoder",
    "masked-channels": "masks channels in front of another encoder",
    "multi-scale": "runs another encoder at several scales",
}
VIT, RESNET = "timm/vit_tiny_patch16_224", "timm/resnet18"
FULL_RESNET = "timm/resnet18 (full size)"
NETWORKS = {"vm-unet (mhs)": {"block": "mhs"}, "vm-unet (ss2d)": {"block": "ss2d"}}
"""Whole segmentation networks, which have no encoder that could stand alone; for vessels only."""
CHANGES: dict[str, dict[str, Any]] = {
    "adventurer": {"states": 16, "head_dim": 16},
    "hvir": {"head_dim": 8},
    "medvit-v2": {"head_dim": 8, "stem": (16, 8, 16), "depths": (1, 1, 3, 1), "dims": (16, 32, 32, 48)},
    "rsmamba": {"stride": PATCH_SIZE},
}
"""Settings beside width and depth, where the defaults are of a large model."""


@dataclass(frozen=True)
class Entry:
    """One encoder of the table.

    Attributes:
        label: its row.
        name: for `create_encoder`.
        settings: all but `in_channels`.
    """

    label: str
    name: str
    settings: dict[str, Any]

    def make(self, in_channels: int) -> base.Encoder:
        return base.create_encoder(self.name, in_channels=in_channels, **self.settings)


def labels() -> list[str]:
    """All rows: foveal's own encoders but those that wrap others, a plain ViT and ResNet-18."""
    return [*(n for n in base.list_encoders() if n not in WRAPPERS), VIT, RESNET, FULL_RESNET]


def sized(label: str, parameters: int) -> Entry:
    """The entry whose encoder of three channels is nearest to `parameters` on a logarithmic scale.

    Raises:
        ValueError: no width makes an encoder; tells the last reason.
    """
    if label == FULL_RESNET:
        return Entry(label, RESNET, {})
    name = label
    best: tuple[float, Entry] | None = None
    reason: Exception | None = None
    for settings in _candidates(name):
        entry = Entry(label, name, settings)
        try:
            count = parameter_count(entry.make(3))
        except (ValueError, TypeError, AssertionError) as error:
            reason = error
            continue
        distance = abs(math.log(count / parameters))
        if best is None or distance < best[0]:
            best = distance, entry
        if count > 2 * parameters:
            break
    if best is None:
        raise ValueError(f"{label}: no width makes an encoder: {reason}") from reason
    return best[1]


def sized_network(label: str, parameters: int) -> dict[str, Any]:
    """Settings of the network "vm-unet", all of which is nearest to `parameters`."""
    choices = [
        NETWORKS[label]
        | {
            "dims": (width, 2 * width, 3 * width, 4 * width),
            "depths_enc": (1, 1, 1, 1),
            "depths_dec": (1, 1, 1, 1),
        }
        for width in range(8, 49, 8)
    ]
    sizes = [parameter_count(create_network("vm-unet", outputs=1, **settings)) for settings in choices]
    return min(zip(sizes, choices, strict=True), key=lambda pair: abs(math.log(pair[0] / parameters)))[1]


def parameter_count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _candidates(name: str) -> Iterator[dict[str, Any]]:
    """Settings of growing width."""
    make: Callable[[int], dict[str, Any]]
    if name == VIT:
        step = 16

        def make(width: int) -> dict[str, Any]:
            heads = {"embed_dim": width, "num_heads": width // 16}
            return heads | {"img_size": IMAGE_SIZE, "patch_size": PATCH_SIZE, "depth": DEPTH}

    elif name == RESNET:
        step = 4

        def make(width: int) -> dict[str, Any]:
            return {"channels": [width, 2 * width, 4 * width, 8 * width]}

    else:
        takes = inspect.signature(base.encoder_class(name).__init__).parameters
        fixed = {
            "image_size": IMAGE_SIZE,
            "patch_size": PATCH_SIZE,
            "depth": DEPTH,
            "depths": STAGE_DEPTHS,
        }
        fixed = {key: value for key, value in fixed.items() if key in takes} | CHANGES.get(name, {})
        step = 16 if "depth" in takes else fixed.get("head_dim", 4)

        def make(width: int) -> dict[str, Any]:
            widths = {
                "dim": width,
                "dims": (width, 2 * width, 3 * width, 4 * width),
                "widths": (width, 2 * width, 4 * width),
                "heads": max(1, width // 16),
            }
            return {key: value for key, value in widths.items() if key in takes} | fixed

    for width in range(step, 20 * step + 1, step):
        yield make(width)
