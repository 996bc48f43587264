"""ChannelViT: one encoder for images whose channels are different measurements and may be missing.

foveal train channelvit --data FOLDER_OR_NPZ --out runs/channelvit
foveal verify channelvit
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import Field

from foveal.recipes.base import Card, Evidence, Paper, Scale
from foveal.recipes.encoder_recipe import EncoderRecipe, EncoderSettings


def _paper_training() -> dict[str, Any]:
    return {
        "steps": 100 * 500,
        "batch_size": 256,
        "learning_rate": 5e-4,
        "weight_decay": 0.04,
        "warmup_fraction": 0.1,
        "minimum_factor": 1e-6 / 5e-4,
    }


class ChannelViTSettings(EncoderSettings):
    """Hyper-parameters; the defaults are those of ChannelViT-S/16 (JUMP-CP, 100 epochs, 10 of warm-up).

    An epoch is taken as 500 steps; the learning rate is 5e-4 for 256 images a step and grows with them.
    """

    size: Literal["tiny", "small", "base"] = "small"
    patch_size: int = Field(16, ge=1, description="pixels; 8 is better and four times as many tokens")
    channel_names: tuple[str, ...] | None = Field(None, description="of the input, e.g. IR, BAF, green")
    sampling: Literal["hcs", "dropout", "none"] = Field(
        "hcs", description="channels that a training step sees"
    )
    channel_dropout: float = Field(0.5, ge=0, lt=1, description="rate of sampling 'dropout'")
    pos_mode: Literal["shared", "official"] = "shared"
    merge: Literal["mean", "attention", "concat"] = Field(
        "mean", description="over channels, for dense heads"
    )
    drop_path: float = Field(0.0, ge=0, lt=1)
    training: dict[str, Any] = Field(default_factory=_paper_training, description="of TrainingSettings")


class ChannelViTRecipe(EncoderRecipe[ChannelViTSettings]):
    """A token for each channel and patch, channel vectors, and hierarchical channel sampling."""

    card = Card(
        slug="channelvit",
        title="ChannelViT: a vision transformer with a token for each channel and patch",
        paper=Paper(
            citation="Channel Vision Transformers: An Image Is Worth C x 16 x 16 Words, ICLR 2024",
            year=2024,
            link="https://arxiv.org/abs/2309.16108",
        ),
        task="Images of some or all channels with the indices or names of these (multi-colour, "
        "autofluorescence, en-face slabs) in; a class feature, token features of every channel, a map for "
        "dense heads, or the relevance of each channel out.",
        published=(
            "ImageNet top-1 (quoted from memory, unconfirmed): ViT-S/16 71.5 on RGB and about 21 to 34 "
            "on single channels; with hierarchical channel sampling 73.0, and about 68 to 70 on single "
            "channels; ChannelViT-S/16 with it 74.6, and about 68 to 70.",
            "JUMP-CP (8 channels) and So2Sat (18): ChannelViT with the sampling beats ViT with it for every "
            "number of channels, by several to more than ten points with all 8 at patch 8; without it both "
            "collapse when channels are missing.",
        ),
        original="https://github.com/insitro/ChannelViT",
        licence="CC-BY-NC-4.0",
        faithfulness="Written from the paper alone. Tokens, trunk, positions and sampling are the "
        "paper's; the original's distorted resize of positions is pos_mode 'official'. Images of one "
        "batch may have different channels (masked keys), where the original takes the first row for all "
        "unless it samples. Draws follow a seed that all processes share. Weight decay is constant here, "
        "not 0.04 to 0.4 along a cosine; DINO on ChannelViT waits for the objective. Not trained on "
        "JUMP-CP, So2Sat, Camelyon17 or ImageNet.",
        built_from=(
            "blocks.channel_tokens",
            "blocks.patches",
            "encoders.masked_channels: the baseline",
            "evaluation.channel_subsets",
            "explanation.channel_relevance",
            "timm: Block, and VisionTransformer as the baseline",
        ),
    )
    Settings = ChannelViTSettings

    def encoder_config(self, settings: ChannelViTSettings) -> tuple[str, dict[str, Any]]:
        """Name and settings of the encoder."""
        names = (
            "size",
            "image_size",
            "patch_size",
            "channel_names",
            "sampling",
            "channel_dropout",
            "pos_mode",
            "merge",
            "drop_path",
        )
        return "channelvit", {name: getattr(settings, name) for name in names}

    def evidence(self, scale: Scale) -> Iterable[Evidence]:
        """See `foveal.recipes._channelvit_evidence`."""
        from foveal.recipes._channelvit_evidence import evidence

        return evidence(scale)


recipe = ChannelViTRecipe()
