"""S2, scaling on scales: multi-scale features from one encoder, by tiles joined along channels.

foveal train s2 --data FOLDER_OR_NPZ --out runs/s2
foveal verify s2
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import Field

from foveal.recipes.base import Card, Evidence, Paper, Scale
from foveal.recipes.encoder_recipe import EncoderRecipe, EncoderSettings


class S2Settings(EncoderSettings):
    """Hyper-parameters; the defaults are those of ViT-B-S2 at 224 and 448 px.

    Published use freezes a pretrained encoder (`frozen`, with `"pretrained": true` among `inner_settings`
    where its weights can be had). For photographs larger than the encoder's input set `image_size` to theirs
    and give `sizes` in place of `scales`, e.g. sizes (224, 448) at image_size 1024.
    """

    encoder: str = Field("timm/vit_base_patch16_224", description="any name of create_encoder")
    inner_settings: dict[str, Any] = Field(default_factory=dict, description="of that encoder")
    scales: tuple[float, ...] | None = (1, 2)
    sizes: tuple[int, ...] | None = Field(None, description="pixels in place of scales, which are then null")
    max_tile: int | None = Field(None, ge=1, description="largest tile, pixels")
    shape: Literal["square", "any", "dynamic"] = "square"
    out_index: int | None = Field(None, description="scale on whose grid tokens come out; -1 keeps detail")
    tile_batch: int | None = Field(None, ge=1, description="tiles in the encoder at once")
    antialias: bool = False
    norm_per_scale: bool = False
    overlap: float = Field(0.0, ge=0, le=0.9, description="share that neighbouring tiles share")
    frozen: bool = Field(False, description="train the head alone")


class S2Recipe(EncoderRecipe[S2Settings]):
    """Any encoder on several scales of an image: the tokens of one, the channels of all."""

    card = Card(
        slug="s2",
        title="S2 (scaling on scales): multi-scale features of any encoder without retraining",
        paper=Paper(
            citation="When Do We Not Need Larger Vision Models?, ECCV 2024",
            year=2024,
            link="https://arxiv.org/abs/2403.13043",
        ),
        task="A photograph and any encoder in; as many tokens as the encoder gives, with the channels of "
        "several scales, out: small lesions become visible to a small encoder at no longer sequence.",
        published=(
            "LLaVA-1.5 7B with S2 (336, 672, 1008 px): VQAv2 79.1 to 80.0, TextVQA 58.2 to 61.0, SEED "
            "65.7 to 67.9, MM-Vet 30.2 to 32.4; MMMU 36.2 (full fine-tuning) to 37.7; 13B: TextVQA 60.2 "
            "to 63.1, VQAv2 80.0 to 80.9.",
            "VILA-1.5 3B: TextVQA 60.4 to 63.4, VizWiz 53.5 to 61.3, average 60.2 to 60.9.",
            "Tiles beat the model run on the big image with interpolated positions, in cost and in "
            "quality, for segmentation (table 12).",
        ),
        original="https://github.com/bfshi/scaling_on_scales",
        licence="MIT",
        faithfulness="Squares follow the published steps. Any shape resizes to whole tiles; the dynamic "
        "variant takes the nearest grid of tiles, whose exact rules the paper does not tell. Overlap, "
        "one pass for all tiles of one colour, and normalisation by scale are foveal's, the first and "
        "last off by default. With sizes the largest tile is the smallest size, not the image's side. "
        "The approximation study reports R^2 and -log(1 - R^2). No published weights were run.",
        built_from=(
            "blocks.tiles",
            "encoders.scale_plan",
            "encoders.scale_passes",
            "encoders.multi_scale",
            "evaluation.feature_approximation",
            "scikit-learn: the linear probe",
        ),
    )
    Settings = S2Settings

    def encoder_config(self, settings: S2Settings) -> tuple[str, dict[str, Any]]:
        """Name and settings of the encoder."""
        names = (
            "encoder",
            "scales",
            "sizes",
            "max_tile",
            "shape",
            "out_index",
            "tile_batch",
            "antialias",
            "norm_per_scale",
            "overlap",
            "frozen",
        )
        chosen = {name: getattr(settings, name) for name in names}
        return "multi-scale", {**chosen, "encoder_settings": settings.inner_settings}

    def evidence(self, scale: Scale) -> Iterable[Evidence]:
        """See `foveal.recipes._s2_evidence`."""
        from foveal.recipes._s2_evidence import evidence

        return evidence(scale)


recipe = S2Recipe()
