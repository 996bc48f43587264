"""Diffusion backbones: a U of any blocks that is told the step of the noise (VM-DDPM, arXiv 2405.05667)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from foveal.blocks.grid_layers import check_dimensions
from foveal.models.networks.base import register_network
from foveal.models.networks.frame import crop, pad_to_multiple, single_cells_told
from foveal.models.networks.ssm_unet import SSMUNet, Stage


@register_network("vm-ddpm")
class StepConditionedUNet(SSMUNet):
    """Noisy images (B, C, *sizes) and their steps (B,) to predicted noise (B, outputs, *sizes).

    The step's sines pass two layers; each stage of the encoder scales and shifts its map by what a linear
    layer of its own makes of them, x (1 + a) + b, both 0 at first. For dose prediction, synthesis and
    reconstruction what is given beside the noise are further channels of the images. Blocks of the released
    code are unconfirmed: convolutions, then scans, stand in each stage after the first.

    Args:
        outputs: channels of the noise.
        step_width: sines and cosines of a step, even.
        spatial_dims: 2 or 3.
        dims: channels of the stages, finest first.
        block_enc: as in `SSMUNet`.
        block_bot: as in `SSMUNet`.
        block_dec: as in `SSMUNet`.
        **settings: of `SSMUNet`.

    Raises:
        ValueError: an odd width, or what `SSMUNet` refuses.
    """

    def __init__(
        self,
        *,
        outputs: int = 1,
        step_width: int = 64,
        spatial_dims: int = 2,
        dims: Sequence[int] = (32, 64, 128, 256),
        block_enc: str | Sequence[Stage] | None = None,
        block_bot: Stage = ("conv", "ss2d"),
        block_dec: str | Sequence[Stage] = "conv",
        **settings: Any,
    ) -> None:
        if step_width < 2 or step_width % 2:
            raise ValueError(f"step_width is {step_width}; allowed: even numbers from 2")
        if block_enc is None:
            block_enc = [["conv"], *[["conv", "ss2d"]] * (len(dims) - 2)] if len(dims) > 1 else []
        super().__init__(
            outputs=outputs,
            spatial_dims=check_dimensions(spatial_dims),
            dims=dims,
            block_enc=block_enc,
            block_bot=block_bot,
            block_dec=block_dec,
            **settings,
        )
        self.step_width = step_width
        self.step = nn.Sequential(
            nn.Linear(step_width, 4 * step_width),
            nn.SiLU(),
            nn.Linear(4 * step_width, 4 * step_width),
            nn.SiLU(),
        )
        self.told = nn.ModuleList(_zero_linear(4 * step_width, 2 * dim) for dim in dims)

    def forward(self, images: Tensor, steps: Tensor | None = None) -> Tensor:
        """Noise in the images.

        Args:
            images: (B, C, *sizes).
            steps: (B,), of each image, whole numbers or fractions; 0 for all by default.

        Raises:
            ValueError: another number of steps than of images, or images that do not suit.
        """
        from monai.networks.nets.diffusion_model_unet import get_timestep_embedding

        images = self.checked(images)
        steps = images.new_zeros(len(images)) if steps is None else steps
        if steps.shape != (len(images),):
            raise ValueError(f"steps of shape {tuple(steps.shape)}; allowed: ({len(images)},), one an image")
        told = self.step(get_timestep_embedding(steps, self.step_width).to(images.dtype))
        x, maps = self.stem(pad_to_multiple(images, self.multiple)), []
        with single_cells_told(images.shape[2:]):
            for level, stage in enumerate(self.encoder):
                x = self.downs[level - 1](x) if level else x
                scale, shift = (
                    self.told[level](told).view(len(x), -1, *(1,) * self.spatial_dims).chunk(2, dim=1)
                )
                x = stage(x * (1 + scale) + shift)
                maps.append(x)
            noise = self.head(self.decode(maps)[0])
        return crop(noise, images.shape[2:])


def _zero_linear(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
