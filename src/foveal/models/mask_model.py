"""Any registered network as a model of masks of images or volumes, saved and loaded by name."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from foveal.models.networks import create_network
from foveal.models.pretrained import PretrainedModel
from foveal.settings import Settings


class MaskModelConfig(Settings):
    """Everything that rebuilds a `MaskModel`."""

    network: str = Field("umamba-bot", description="of create_network")
    network_settings: dict[str, Any] = Field(default_factory=dict)
    spatial_dims: Literal[2, 3] = 2
    in_channels: int = Field(1, ge=1)
    outputs: int = Field(1, ge=1, description="masks, each with a logit a pixel")


class MaskModel(PretrainedModel):
    """Images (B, C, *sizes) to logits (B, outputs, *sizes).

    Example:
        >>> model = MaskModel(MaskModelConfig(network="ssm-unet", network_settings={"dims": (8, 16)}))
        >>> model(torch.rand(1, 1, 30, 40)).shape
        torch.Size([1, 1, 30, 40])
    """

    Config = MaskModelConfig

    def __init__(self, config: MaskModelConfig) -> None:
        super().__init__()
        self.config = config
        settings = {"in_channels": config.in_channels, **config.network_settings}
        if config.spatial_dims == 3:
            settings["spatial_dims"] = 3
        self.network = create_network(config.network, outputs=config.outputs, **settings)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of whole images."""
        return self.network(images)

    @torch.inference_mode()
    def predict(
        self, images: Tensor, *, patch_size: int | None = None, overlap: float = 0.5, batch: int = 4
    ) -> Tensor:
        """Probabilities (N, outputs, *sizes) on the CPU.

        Args:
            images: (N, C, *sizes), of any number.
            patch_size: side of patches that slide over each image, blended where they overlap; None takes
                images whole.
            overlap: share of a patch that neighbours share.
            batch: images, or patches, at a time.
        """
        from monai.inferers.utils import sliding_window_inference

        device = next(self.parameters()).device
        if patch_size is None:
            parts = [self(part.to(device)).sigmoid().cpu() for part in images.split(batch)]
            return torch.cat(parts)
        found = []
        for image in images.split(1):
            logits = sliding_window_inference(
                image.to(device), (patch_size,) * (images.ndim - 2), batch, self, overlap, mode="gaussian"
            )
            if not isinstance(logits, Tensor):
                raise TypeError(
                    f"the network returned {type(logits).__name__}; allowed: one tensor of logits"
                )
            found.append(logits.sigmoid().cpu())
        return torch.cat(found)
