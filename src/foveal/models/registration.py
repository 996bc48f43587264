"""Registration as VoxelMorph has it (arXiv 1809.05231), with any network: MambaMorph and VMambaMorph."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from foveal.blocks.grid_layers import convolution
from foveal.blocks.warping import integrate, warp
from foveal.models.networks import create_network
from foveal.models.pretrained import PretrainedModel
from foveal.settings import Settings


class Registered(NamedTuple):
    """A moving image brought to a fixed one.

    `warped`: (B, C, *grid); `flow`: (B, axes, *grid) in cells, warped(x) = moving(x + flow(x)).
    """

    warped: Tensor
    flow: Tensor


class RegistrationConfig(Settings):
    """Everything that rebuilds a `RegistrationModel`."""

    network: str = Field("ssm-unet", description="of create_network; it sees both images as channels")
    network_settings: dict[str, Any] = Field(default_factory=dict)
    spatial_dims: Literal[2, 3] = 2
    channels: int = Field(1, ge=1, description="of each image")
    features: int = Field(16, ge=1, description="of the network, from which the flow is made")
    integration_steps: int = Field(
        0, ge=0, description="squarings of a velocity, so that the flow hardly folds; 0 takes it as the flow"
    )


class RegistrationModel(PretrainedModel):
    """A moving and a fixed image (B, C, *grid) to a flow and the warped moving image.

    An untrained model moves nothing: the layer that makes the flow begins at weights near 0.

    Example:
        >>> model = RegistrationModel(RegistrationConfig(network_settings={"dims": (8, 16)}))
        >>> model(torch.rand(1, 1, 32, 40), torch.rand(1, 1, 32, 40)).flow.shape
        torch.Size([1, 2, 32, 40])
    """

    Config = RegistrationConfig

    def __init__(self, config: RegistrationConfig) -> None:
        super().__init__()
        self.config = config
        settings = {"in_channels": 2 * config.channels, **config.network_settings}
        if config.spatial_dims == 3:
            settings["spatial_dims"] = 3
        self.network = create_network(config.network, outputs=config.features, **settings)
        self.to_flow = convolution(config.features, config.spatial_dims, dimensions=config.spatial_dims)
        for name, parameter in self.to_flow.named_parameters():
            nn.init.normal_(parameter, std=1e-5) if name == "weight" else nn.init.zeros_(parameter)

    def forward(self, moving: Tensor, fixed: Tensor) -> Registered:
        """Register.

        Raises:
            ValueError: images of other axes or channels, or of shapes that differ.
        """
        axes, channels = self.config.spatial_dims, self.config.channels
        if moving.ndim != axes + 2 or moving.shape[1] != channels or moving.shape != fixed.shape:
            wanted = f"both (B, {channels}, {'H, W' if axes == 2 else 'T, H, W'})"
            raise ValueError(
                f"moving images {tuple(moving.shape)} and fixed ones {tuple(fixed.shape)}; allowed: {wanted}"
            )
        flow = self.to_flow(self.network(torch.cat([moving, fixed], dim=1)))
        if self.config.integration_steps:
            flow = integrate(flow, steps=self.config.integration_steps)
        return Registered(warp(moving, flow), flow)
