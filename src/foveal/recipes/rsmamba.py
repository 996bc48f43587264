"""RSMamba: a plain Mamba classifier along three gated paths, forward, reverse and shuffled.

foveal train rsmamba --data FOLDER_OR_NPZ --out runs/rsmamba
foveal verify rsmamba
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import Field

from foveal.recipes.base import Card, Evidence, Paper, Scale
from foveal.recipes.encoder_recipe import EncoderRecipe, MixedSettings


def _paper_training() -> dict[str, Any]:
    return {
        "steps": 500 * 16,
        "batch_size": 1024,
        "learning_rate": 5e-4,
        "weight_decay": 0.05,
        "warmup_steps": 10 * 16,
        "minimum_factor": 0.02,
    }


def _paper_augmentation() -> dict[str, Any]:
    return {"crop": 0.4, "vertical_flip": 0.5, "rotation": 0.0, "policy": "rand"}


class RsmambaSettings(MixedSettings):
    """Hyper-parameters; the defaults are the paper's (500 epochs, here of 16 steps as for RESISC45, 224 px).

    For lesions that are small beside the image turn `mixup` and `cutmix` off.
    """

    size: Literal["s", "b", "l", "h"] = "b"
    stride: int = Field(8, ge=1, description="pixels from patch to patch")
    path_type: Literal[
        "forward",
        "forward_reverse_mean",
        "forward_reverse_gate",
        "forward_reverse_shuffle_mean",
        "forward_reverse_shuffle_gate",
    ] = "forward_reverse_shuffle_gate"
    shuffle: Literal["fixed", "average", "random"] = Field(
        "fixed", description="permutations in evaluation: the seed's, the mean of several, or new ones"
    )
    draws: int = Field(8, ge=1, description="permutations that 'average' takes")
    seed: int = Field(0, ge=0, description="of the permutations in evaluation")
    share_norm: bool = Field(True, description="one pre-norm for all blocks, as the original has it")
    class_token: Literal["none", "head", "middle", "tail", "double"] = "none"
    positions: Literal["learned", "sine", "none"] = "learned"
    training: dict[str, Any] = Field(default_factory=_paper_training, description="of TrainingSettings")
    augmentation: dict[str, Any] = Field(
        default_factory=_paper_augmentation, description="of ImageAugmentation"
    )


class Rsmamba(EncoderRecipe[RsmambaSettings]):
    """The vanilla mixer made to see all tokens from outside, by the orders in which they come to it."""

    card = Card(
        slug="rsmamba",
        title="RSMamba: a plain Mamba classifier with three gated scan paths that share one mixer",
        paper=Paper(
            citation="RSMamba: Remote Sensing Image Classification with State Space Model, IEEE GRSL 2024",
            year=2024,
            link="https://arxiv.org/abs/2403.19654",
        ),
        task="An image in; class logits, a pooled feature or a feature map out, from a small encoder (6 to "
        "33 M parameters) that trains from scratch on a modest labelled set.",
        published=(
            "F1 on UC Merced / AID / RESISC45: B (6.4 M) 93.88 / 91.66 / 94.84, L (16.2 M) 94.74 / 91.90 / "
            "95.02, H (33.1 M) 95.25 / 92.63 / 95.18.",
            "Same protocol: ResNet-50 91.65 / 88.87 / 92.47, DeiT-S 88.41 / 85.34 / 87.43, ViT-B 90.77 / "
            "88.86 / 88.62, Swin-B 91.62 / 89.07 / 93.56, Vim-Ti 88.68 / 87.13 / 88.97, VMamba-T 92.81 / "
            "91.10 / 93.94.",
            "AID, base: forward 87.24; with reverse and mean 88.61, with gate 90.07, and shuffle 91.66.",
            "AID, base: class token at the head 86.92, tail 87.74, both 86.79, middle 91.24, mean 91.66.",
            "AID, base: no positions 90.25, Fourier 91.04, learned 91.66; stride 16 89.38, stride 8 91.66, "
            "384 px 92.16.",
        ),
        original="https://github.com/KyanChen/RSMamba",
        licence="Apache-2.0",
        faithfulness="Layers, sizes, corner padding, the shared pre-norm and the layout of the official "
        "weights are the original's. Its projections in and out run once for all paths, which changes no "
        "number. Evaluation draws its permutations from a stored seed, where the original's are new at each "
        "call (shuffle=random). Both class tokens work, where the original raises. AutoAugment is "
        "RandAugment here. Not trained on the remote-sensing sets.",
        built_from=(
            "kernels.selective_scan",
            "blocks.mamba",
            "blocks.multi_path",
            "blocks.class_tokens",
            "blocks.patches",
        ),
    )
    Settings = RsmambaSettings

    def encoder_config(self, settings: RsmambaSettings) -> tuple[str, dict[str, Any]]:
        """Name and settings of the encoder."""
        names = ["size", "image_size", "stride", "path_type", "shuffle", "draws", "seed", "share_norm"]
        names += ["class_token", "positions"]
        return "rsmamba", {name: getattr(settings, name) for name in names}

    def evidence(self, scale: Scale) -> Iterable[Evidence]:
        """See `foveal.recipes._rsmamba_evidence`."""
        from foveal.recipes._rsmamba_evidence import evidence

        return evidence(scale)


recipe = Rsmamba()
