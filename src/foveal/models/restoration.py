"""Restoration and reconstruction: a degraded image in, a clean one out, by any network."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field
from torch import Tensor

from foveal.models.networks import create_network
from foveal.models.pretrained import PretrainedModel
from foveal.settings import Settings


class RestorationConfig(Settings):
    """Everything that rebuilds a `RestorationModel`."""

    network: str = Field("vmambair", description="of create_network")
    network_settings: dict[str, Any] = Field(default_factory=dict)
    spatial_dims: Literal[2, 3] = 2
    channels: int = Field(1, ge=1, description="of the images, in and out")
    residual: bool = Field(True, description="the network tells what to add to its input")


class RestorationModel(PretrainedModel):
    """Images (B, C, *sizes) to restored ones of the same shape.

    Example:
        >>> config = RestorationConfig(network="ssm-unet", network_settings={"dims": (8, 16)})
        >>> model = RestorationModel(config)
        >>> model(torch.rand(1, 1, 30, 40)).shape
        torch.Size([1, 1, 30, 40])
    """

    Config = RestorationConfig

    def __init__(self, config: RestorationConfig) -> None:
        super().__init__()
        self.config = config
        settings = {"in_channels": config.channels, **config.network_settings}
        if config.spatial_dims == 3:
            settings["spatial_dims"] = 3
        self.network = create_network(config.network, outputs=config.channels, **settings)

    def forward(self, images: Tensor) -> Tensor:
        """Restore.

        Raises:
            ValueError: images of other axes or channels.
        """
        axes, channels = self.config.spatial_dims, self.config.channels
        if images.ndim != axes + 2 or images.shape[1] != channels:
            wanted = f"(B, {channels}, {'H, W' if axes == 2 else 'T, H, W'})"
            raise ValueError(f"images of shape {tuple(images.shape)}; allowed: {wanted}")
        told = self.network(images)
        return images + told if self.config.residual else told
