"""ViR: a vision transformer with retention, trained as a matrix and run in chunks or as a stream.

foveal train vir --data FOLDER_OR_NPZ --out runs/vir
foveal verify vir
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import Field

from foveal.recipes.base import Card, Evidence, Paper, Scale
from foveal.recipes.encoder_recipe import EncoderRecipe, MixedSettings, deit_training


def _deit_training() -> dict[str, Any]:
    return deit_training(ema_decay=0.99996)


class VirSettings(MixedSettings):
    """Hyper-parameters; training is DeiT's on ImageNet-1k, for the paper's own values are unconfirmed.

    For photographs of the retina take size tiny or small at 384 to 768 px in chunks of 64. With few heads
    RetNet's decays reach no further than 128 tokens (3 heads): there set `decay_range` to 32 and the number
    of tokens.
    """

    size: Literal["tiny", "small", "base", "large"] = "small"
    mode: Literal["parallel", "recurrent", "chunkwise"] = Field("parallel", description="form in training")
    chunk: int = Field(64, ge=1, description="tokens of a chunk")
    grid: Literal["up-left", "corners"] | None = Field(
        None, description="retention over the grid: from one corner, or the mean of all four"
    )
    decay_range: tuple[float, float] | None = Field(
        None, description="shortest and longest range in tokens; None has RetNet's decays"
    )
    post: Literal["ln_gelu", "gn_gate"] = Field("ln_gelu", description="what follows the heads")
    stabilise: bool = Field(False, description="RetNet's divisors of each row")
    drop_path: float = Field(0.1, ge=0, lt=1)
    training: dict[str, Any] = Field(default_factory=_deit_training, description="of TrainingSettings")


class VirRecipe(EncoderRecipe[VirSettings]):
    """Attention without softmax, one layer with three forms that give equal outputs."""

    card = Card(
        slug="vir",
        title="ViR: vision backbone with retention, with equal parallel, recurrent and chunkwise forms",
        paper=Paper(
            citation="ViR: Towards Efficient Vision Retention Backbones (first: ViR: Vision Retention "
            "Networks), 2023",
            year=2023,
            link="https://arxiv.org/abs/2310.19731",
        ),
        task="An image in; class logits, a class feature or all token features out, from an encoder that is "
        "trained in parallel and runs on very large images, strips or volumes with a state of constant size.",
        published=(
            "Abstract: competitive accuracy on ImageNet-1k beside ViT and DeiT of the same size, with better "
            "throughput and memory at higher resolution; the first vision backbone with dual parallel and "
            "recurrent forms. Figures of its tables could not be confirmed and are not given.",
        ),
        original="https://github.com/NVlabs/ViR (holds no code; weights were never released)",
        licence="none",
        faithfulness="Written from the paper's equations. The norm and GELU after the heads follow a public "
        "re-implementation made from the paper; RetNet's norm of each head and gate is an option. q, k and v "
        "come from the full width, the class token is last and positions are absolute. The form of retention "
        "over a grid and the hybrid's widths (encoder `hvir`) are unconfirmed. Taking over a ViT's weights "
        "is ours. Not trained on ImageNet here.",
        built_from=(
            "kernels.gated_recurrence",
            "kernels.grid_recurrence",
            "blocks.retention",
            "blocks.class_tokens",
            "blocks.patches",
            "timm: Mlp, DropPath, and VisionTransformer as the baseline",
        ),
    )
    Settings = VirSettings

    def encoder_config(self, settings: VirSettings) -> tuple[str, dict[str, Any]]:
        """Name and settings of the encoder."""
        names = (
            "size",
            "image_size",
            "mode",
            "chunk",
            "grid",
            "decay_range",
            "post",
            "stabilise",
            "drop_path",
        )
        return "vir", {name: getattr(settings, name) for name in names}

    def evidence(self, scale: Scale) -> Iterable[Evidence]:
        """See `foveal.recipes._vir_evidence`."""
        from foveal.recipes._vir_evidence import evidence

        return evidence(scale)


recipe = VirRecipe()
