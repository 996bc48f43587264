"""The registration of the survey's evidence: a picture that was moved by a smooth flow that is known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from foveal.blocks.warping import warp
from foveal.metrics.registration import folded_share, mean_endpoint_error
from foveal.models.registration import RegistrationConfig, RegistrationModel
from foveal.objectives.registration import RegistrationObjective
from foveal.recipes.base import Finding
from foveal.training import TrainingSettings, fit
from foveal.training.randomness import without_touching_randomness


@dataclass(frozen=True)
class KnownWarp:
    """A texture, and its warp by a smooth flow; the second sample is the texture beside itself.

    Attributes:
        moving: (1, S, S) in [0, 1], with no place without a pattern.
        fixed: (1, S, S).
        flow: (2, S, S) in px, which the objective does not see.
    """

    moving: Tensor
    fixed: Tensor
    flow: Tensor

    @classmethod
    def drawn(cls, seed: int, *, side: int = 48, reach: float = 4.0) -> KnownWarp:
        """Coarse to fine noise, and a flow from 4 x 4 random vectors of up to `reach` px an axis."""
        generator = torch.Generator().manual_seed(seed)

        def enlarged(values: Tensor) -> Tensor:
            return F.interpolate(values, size=(side, side), mode="bicubic")

        layers = [torch.rand(1, 1, cells, cells, generator=generator) for cells in (6, 12, 24)]
        moving = torch.stack([enlarged(layer) for layer in layers]).mean(dim=0).clamp(0, 1)
        flow = enlarged((2 * torch.rand(1, 2, 4, 4, generator=generator) - 1) * reach)
        return cls(moving[0], warp(moving, flow)[0], flow[0])

    def __len__(self) -> int:
        return 2

    def sample(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        """The warped pair, or the equal one."""
        return {"moving": self.moving, "fixed": (self.fixed, self.moving)[index]}


def known_warps(seeds: int, steps: int = 300) -> Iterator[Finding]:
    """A Mamba U-Net finds the flow of a pair from the images alone, folds nothing, and lets equal ones be."""
    errors, folded, still, before = [], [], [], []
    for seed in range(seeds):
        pair = KnownWarp.drawn(seed)
        model = _fitted(pair, steps=steps, seed=seed)
        with torch.inference_mode():
            flow = model(pair.moving[None], pair.fixed[None]).flow[0].numpy()
            same = model(pair.moving[None], pair.moving[None]).flow
        errors.append(mean_endpoint_error(flow, pair.flow.numpy()))
        folded.append(folded_share(flow))
        still.append(float(same.norm(dim=1).mean()))
        before.append(float(pair.flow.norm(dim=0).mean()))
    yield Finding.at_most(
        f"a known smooth warp of {fmean(before):.2f} px on average: mean error of the flow in px", errors, 1.0
    )
    yield Finding.at_most("share of its pixels that fold", folded, 0.005)
    yield Finding.at_most("equal images: mean length of the flow in px", still, 0.05)


def _fitted(pair: KnownWarp, *, steps: int, seed: int) -> RegistrationModel:
    settings = TrainingSettings(
        steps=steps, batch_size=2, learning_rate=3e-3, warmup_fraction=0.1, gradient_clip=1.0, seed=seed,
        log_every=steps, tensorboard=False,
    )  # fmt: skip
    block = {"mamba": {"states": 4}}
    config = RegistrationConfig(
        network="mambamorph",
        network_settings={"dims": (16, 32, 64), "stem_stride": 2, "block_settings": block},
        features=8,
        integration_steps=4,
    )
    with without_touching_randomness():
        torch.manual_seed(seed)
        model = RegistrationModel(config)
        fit(RegistrationObjective(model, smoothness_weight=0.3), pair, settings, progress=False)
    return model.eval()
