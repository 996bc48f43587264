"""State-space toolkit for medical images: scans, blocks, U-shaped networks and heads of the Mamba survey.

foveal train ssm-medical-survey --data MASKS.npz --out runs/survey
foveal verify ssm-medical-survey
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from foveal.recipes.base import Card, Evidence, Paper, Recipe, Scale
from foveal.settings import Settings

if TYPE_CHECKING:
    from torch import nn


class SsmMedicalSurveySettings(Settings):
    """What to build: a task, and a network by its name in the survey."""

    task: Literal["segmentation", "restoration", "registration", "bags"] = "segmentation"
    arch: str = Field("umamba-bot", description="of list_networks(); a bag has none")
    spatial_dims: Literal[2, 3] = Field(2, description="images or volumes")
    in_channels: int = Field(3, ge=1, description="of an image; features of an instance of a bag")
    out_channels: int = Field(1, ge=1, description="logits of a pixel or of a bag")
    scan: str | None = Field(None, description="of list_scans(), in place of the network's own")
    network: dict[str, Any] = Field(default_factory=dict, description="further settings of the network")
    compare: tuple[str, ...] = Field(
        ("conv-unet",), description="networks trained beside `arch` under the same protocol"
    )
    patch_size: int | None = Field(None, ge=8, description="px a side, in training and sliding; None: whole")
    seeds: tuple[int, ...] = Field((0,), min_length=1, description="one training of each network for each")
    training: dict[str, Any] = Field(
        default_factory=lambda: {
            "steps": 2000,
            "batch_size": 8,
            "warmup_fraction": 0.05,
            "gradient_clip": 1.0,
        },
        description="of TrainingSettings, the same for all",
    )


class SsmMedicalSurvey(Recipe[SsmMedicalSurveySettings]):
    """Any of the reviewed designs from parts."""

    card = Card(
        slug="ssm-medical-survey",
        title="State-space toolkit for medical images: scans, blocks, U-shaped networks, task heads",
        paper=Paper(
            citation="A Comprehensive Survey of Mamba Architectures for Medical Image Analysis: "
            "Classification, Segmentation, Restoration and Beyond, arXiv 2410.02362",
            year=2024,
            link="https://arxiv.org/abs/2410.02362",
        ),
        task="Images or volumes in; masks, restored images, deformations or classes of bags out, from any of "
        "the reviewed designs, with a catalogue of them.",
        published=(
            "A survey that collects figures of others, each on a protocol of its own: UltraLight VM-UNet "
            "ISIC17 Dice 90.9 with 0.049 M parameters; VM-UNet ISIC17 and 18 Dice about 89.0 and 89.7 "
            "(27.4 M).",
            "U-Mamba above nnU-Net on abdominal CT and MR, endoscopy and microscopy; SegMamba above UNETR "
            "and SwinUNETR on BraTS, and faster at high resolution; MedMamba-S as good as ConvNeXt and Swin "
            "with fewer FLOPs.",
            "Against it: convolutional networks of nnU-Net's kind, trained well, often match the Mamba ones.",
        ),
        original="https://github.com/Madhavaprasath23/Awesome-Mamba-Papers-On-Medical-Domain",
        licence="none (a list of links; no code)",
        faithfulness="Blocks and networks follow the code that their authors released, as far as it was "
        "read; what is not confirmed says so where it stands. SegMamba's branches are added, as released, "
        "not multiplied, as drawn. Slices of its scan are counted from the shape at hand. Scans run in 32 "
        "bits under any autocast. Reported gains mix pretraining, decoders and budgets: here networks are "
        "compared with equal steps, data and size, and no pretraining. Not built: a graph network beside "
        "the scans, DINO and masked autoencoders, diffusion around the backbones.",
        built_from=(
            "blocks.scan_orders",
            "blocks.grid_blocks",
            "blocks.direction_aware",
            "blocks.bags",
            "blocks.masked_scan",
            "blocks.warping",
            "models.networks.ssm_unet",
            "models.bags",
            "models.registration",
            "models.restoration",
            "objectives.mutual_teaching",
            "evaluation.mask_protocol",
            "recipes.state_space_models",
            "monai (UNETR blocks, losses, sliding window)",
        ),
    )
    Settings = SsmMedicalSurveySettings

    def build(self, settings: SsmMedicalSurveySettings) -> nn.Module:
        """The untrained model of the task: a network, or a model around it.

        Raises:
            ValueError: a network, scan or setting that is not known, or axes that the network does not take.
        """
        if settings.task == "bags":
            from foveal.models.bags import BagClassifier, BagClassifierConfig

            return BagClassifier(
                BagClassifierConfig(
                    inputs=settings.in_channels, classes=settings.out_channels, **settings.network
                )
            )
        network = dict(settings.network)
        if settings.scan is not None:
            network["scan"] = settings.scan
        if settings.task == "restoration":
            from foveal.models.restoration import RestorationConfig, RestorationModel

            return RestorationModel(
                RestorationConfig(
                    network=settings.arch,
                    network_settings=network,
                    spatial_dims=settings.spatial_dims,
                    channels=settings.in_channels,
                )
            )
        if settings.task == "registration":
            from foveal.models.registration import RegistrationConfig, RegistrationModel

            return RegistrationModel(
                RegistrationConfig(
                    network=settings.arch,
                    network_settings=network,
                    spatial_dims=settings.spatial_dims,
                    channels=settings.in_channels,
                )
            )
        from foveal.models.networks import create_network

        if settings.spatial_dims == 3:
            network["spatial_dims"] = 3
        return create_network(
            settings.arch, outputs=settings.out_channels, in_channels=settings.in_channels, **network
        )

    def train(self, settings: SsmMedicalSurveySettings, *, data: Path | None, out: Path) -> None:
        """Train `arch` and the networks of `compare` alike; write their scores and models into `out`.

        Args:
            settings: of a segmentation; channels, masks and axes are those of the data.
            data: an `.npz` file, see `foveal.evaluation.mask_protocol.read_mask_arrays`.
            out: receives comparison.md and a folder for each network.

        Raises:
            ValueError: another task, no data, or data that are no images with masks.
        """
        from foveal.evaluation.mask_protocol import compare_networks, read_mask_arrays, scores_table
        from foveal.files import write_atomically
        from foveal.models.mask_model import MaskModelConfig
        from foveal.training import TrainingSettings

        if settings.task != "segmentation" or data is None:
            raise ValueError(
                f"task {settings.task!r} with data {data}; allowed: 'segmentation' with an .npz file (--data)"
            )
        arrays = read_mask_arrays(data, patch_size=settings.patch_size)
        own = dict(settings.network) | ({} if settings.scan is None else {"scan": settings.scan})
        networks = {
            name: MaskModelConfig(
                network=name,
                network_settings=own if name == settings.arch else {},
                spatial_dims=2 if arrays.images.ndim == 4 else 3,
                in_channels=arrays.images.shape[1],
                outputs=arrays.masks.shape[1],
            )
            for name in dict.fromkeys((settings.arch, *settings.compare))
        }
        training = TrainingSettings.model_validate({"tensorboard": False} | settings.training)
        scores = compare_networks(networks, arrays, training, seeds=settings.seeds, folder=out)
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(out / "comparison.md", scores_table(scores) + "\n")

    def evidence(self, scale: Scale) -> Iterable[Evidence]:
        """See `foveal.recipes._ssm_medical_survey_evidence`."""
        from foveal.recipes._ssm_medical_survey_evidence import evidence

        return evidence(scale)


recipe = SsmMedicalSurvey()
