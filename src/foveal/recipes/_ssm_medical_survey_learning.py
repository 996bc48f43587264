"""The segmentations of the survey's evidence: scans beside convolutions in one frame, and light networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from statistics import fmean
from typing import Any

from torch import nn

from foveal.models.networks import create_network
from foveal.recipes._mask_learning import cued_blobs, spiky_blobs, train_and_dice
from foveal.recipes.base import Finding

Make = Callable[[], nn.Module]


def frame(bottleneck: str | Sequence[str], scan: str | None = None) -> nn.Module:
    """One U of three stages for pictures of one channel; only its bottleneck differs."""
    settings: dict[str, Any] = {"dims": (12, 24, 48), "block_bot": bottleneck, "scan": scan}
    if "mamba" in bottleneck:
        settings["block_settings"] = {"mamba": {"states": 8}}
    return create_network("ssm-unet", outputs=1, in_channels=1, **settings)


SCANNED: Make = partial(frame, ("mamba", "mamba"), "bidirectional")
CONVOLVED: Make = partial(frame, ("conv",))
ONE_WAY: Make = partial(frame, ("mamba", "mamba"), "row")


def size(make: Make) -> int:
    """Parameters of what is made."""
    return sum(parameter.numel() for parameter in make().parameters())


def blobs(seeds: int, steps: int = 250) -> Iterator[Finding]:
    """On blobs that are seen from near, a scan in the bottleneck is as good as a convolution there."""
    yield Finding.close(
        "parameters of the net with scans over the plain U-Net's", size(SCANNED) / size(CONVOLVED), 1.0,
        tolerance=0.1,
    )  # fmt: skip
    dice = _dice({"scans": SCANNED, "plain": CONVOLVED}, spiky_blobs, seeds, steps)
    yield Finding.at_least(
        f"blobs: Dice with scans less the plain U-Net's, not worse than a point ({_told(dice)})",
        _less(dice["scans"], dice["plain"]), -0.01,
    )  # fmt: skip


def distant_cue(seeds: int, steps: int = 500) -> Iterator[Finding]:
    """Where a far square says which blob counts, scans tell, those that go both ways better."""
    networks = {"scans": SCANNED, "plain": CONVOLVED, "one way": ONE_WAY}
    dice = _dice(networks, cued_blobs, seeds, steps)
    for other in ("plain", "one way"):
        yield Finding.at_least(
            f"a distant cue: Dice of scans both ways less that of {other} ({_told(dice)}; marking both "
            "blobs gives 0.667)",
            _less(dice["scans"], dice[other]), 0.02,
        )  # fmt: skip


def light_network(seeds: int, steps: int = 250) -> Iterator[Finding]:
    """UltraLight VM-UNet beside a VM-UNet of twenty times its size."""
    light: Make = partial(create_network, "ultralight-vm-unet", outputs=1, in_channels=1)
    wide: Make = partial(
        create_network, "vm-unet", outputs=1, in_channels=1, block="ss2d", dims=(52, 104, 208),
        depths_enc=(1, 1, 1), depths_dec=(1, 1, 1), drop_path=0.0, block_settings={"states": 4},
    )  # fmt: skip
    yield Finding.at_most("parameters of UltraLight VM-UNet over VM-UNet's", size(light) / size(wide), 0.05)
    dice = _dice({"PVM": light, "VM-UNet": wide}, spiky_blobs, seeds, steps)
    yield Finding.at_least(
        f"blobs: Dice of the PVM net less VM-UNet's, within three points ({_told(dice)})",
        _less(dice["PVM"], dice["VM-UNet"]), -0.03,
    )  # fmt: skip


def _dice(
    networks: dict[str, Make], data: Callable[[], Any], seeds: int, steps: int
) -> dict[str, list[float]]:
    return {
        name: [train_and_dice(make, data(), steps=steps, seed=seed) for seed in range(seeds)]
        for name, make in networks.items()
    }


def _told(dice: dict[str, list[float]]) -> str:
    return ", ".join(f"{name} {fmean(values):.3f}" for name, values in dice.items())


def _less(a: list[float], b: list[float]) -> list[float]:
    return [x - y for x, y in zip(a, b, strict=True)]
