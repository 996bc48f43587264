"""DVT, denoising vision transformers: patch features without what belongs to the place alone.

foveal train dvt --data FOLDER --set encoder=timm/vit_small_patch14_dinov2 --out runs/dvt
foveal verify dvt
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from foveal.recipes.base import Card, Evidence, Paper, Recipe, Scale
from foveal.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor

    from foveal.encoders.base import Encoder
    from foveal.explanation.decomposition import Decomposition


class DvtSettings(Settings):
    """Encoder, the three stages and what is drawn; the defaults are the paper's, which want a GPU.

    `laptop` takes the decomposition's settings for a CPU: half a minute an image at a grid of 16 x 16.
    """

    encoder: str = Field(
        "timm/vit_base_patch14_dinov2",
        description="name of create_encoder, or the folder of a saved encoder, classifier or embedder",
    )
    encoder_settings: dict[str, Any] = Field(
        default_factory=lambda: {"pretrained": True}, description="of the encoder; {} with a folder"
    )
    image_size: int | None = Field(518, ge=8, description="side in pixels; null takes the encoder's own")
    view: Literal["whole", "field"] = Field("whole", description="the field of view of an eye alone")
    most_images: int | None = Field(10_000, ge=1, description="to decompose, from the first")
    laptop: bool = Field(False, description="start from the decomposition's settings for a CPU")
    decomposition: dict[str, Any] = Field(
        default_factory=dict, description="changes to DecompositionSettings, e.g. views, steps"
    )
    training: dict[str, Any] = Field(
        default_factory=dict, description="of the block: changes to the paper's TrainingSettings"
    )
    heads: int | None = Field(None, ge=1, description="of the block; null is channels / 64")
    distil: bool = Field(False, description="stage 3: train the encoder itself to give clean features")
    distillation: dict[str, Any] = Field(
        default_factory=dict, description="changes to the paper's TrainingSettings of stage 3"
    )
    pictures: int = Field(8, ge=0, description="images whose features are drawn")


class DvtRecipe(Recipe[DvtSettings]):
    """One image taken apart, a block that cleans any image, an encoder that needs no block."""

    card = Card(
        slug="dvt",
        title="DVT: patch features of vision transformers without artifacts of position",
        paper=Paper(
            citation="Denoising Vision Transformers, ECCV 2024 (oral)",
            year=2024,
            link="https://arxiv.org/abs/2401.02957",
        ),
        task="Any encoder with patch tokens and images without labels in; the clean features, the artifact "
        "and the rest of each image out, and the same encoder with one more block (or none) that gives "
        "clean features of any image in one pass.",
        published=(
            "VOC mIoU, ADE20k mIoU and NYU depth RMSE before and after, block trained on VOC: DINOv2-B "
            "83.52/47.02/.3965 to 84.92/48.54/.3811; DINOv2-S 81.78/44.05 to 82.78/45.14; DINOv2-L "
            "83.43/47.53 to 85.25/49.80; DINOv2-reg-B 83.48/47.73 to 84.58/49.24.",
            "DeiT3-B 71.03/32.84 to 73.52/33.57 (an older run on ADE20k: 32.73 to 36.57); CLIP-384 "
            "77.75/40.50 to 79.50/41.33; DINO-B 62.92/31.03 to 66.41/32.45; EVA02 71.49/37.89 to "
            "73.76/37.99; augreg 73.51/36.46 to 74.82/36.75; MAE 50.29/23.84 to 50.65/23.25, no gain.",
            "Distilled: DINOv2-B 85.10/48.57/.3850, augreg 76.26/38.62, EVA02 75.93/40.15; on ImageNet "
            "DINOv2-B 85.33/48.85/.3704.",
            "The block has about 8 % of the parameters of a ViT-B.",
        ),
        original="https://github.com/Jiawei-Yang/Denoising-ViT",
        licence="MIT (nothing of it is copied)",
        faithfulness="Three stages with the published losses, schedules and sizes; the field is plain "
        "PyTorch. Cells stand for their centres, where the original spreads coordinates from edge to edge, "
        "half a cell off there (coordinates='edges'). The artifact ends with mean 0, its mean being the "
        "field's (centred=False leaves both as they fall). All views have one grid, so that the artifact is "
        "looked up, not sampled. No loss scaling. The artifact's measure is the variance that place "
        "explains, in place of mutual information. Of the paper's evaluation the linear heads for classes "
        "and depth are there, ViTDet is not. Not run on published weights or VOC, ADE20k, NYU here.",
        built_from=(
            "blocks.hash_grid",
            "blocks.denoiser",
            "scans.crop_views",
            "explanation.decomposition",
            "explanation.denoising",
            "explanation.feature_pictures",
            "encoders.denoised",
            "encoders.feature_store",
            "metrics.position_variance",
            "evaluation.dense_probe",
            "timm: Block",
        ),
    )
    Settings = DvtSettings

    def build(self, settings: DvtSettings) -> Callable[[Encoder, Tensor], Decomposition]:
        """Stage 1 as a function from an encoder and one image (C, H, W), as it takes it."""
        from functools import partial

        from foveal.explanation.decomposition import decompose

        return partial(decompose, settings=self.decomposition_of(settings))

    def decomposition_of(self, settings: DvtSettings) -> Any:
        """The settings of stage 1."""
        from foveal.explanation.decomposition import DecompositionSettings

        make = DecompositionSettings.laptop if settings.laptop else DecompositionSettings
        return make(**settings.decomposition)

    def train(self, settings: DvtSettings, *, data: Path | None, out: Path) -> None:
        """Decompose the images, train the block, distil where wanted; see `run_denoising` for the files.

        Args:
            settings: hyper-parameters.
            data: a folder, glob or manifest of images, or a MedMNIST `.npz`; labels are not looked at.
            out: receives features, model, pictures and summary; a killed run goes on.

        Raises:
            ValueError: no data, or images whose sides the encoder's patches do not divide.
        """
        from rich.console import Console

        from foveal.explanation.denoising import paper_training
        from foveal.explanation.denoising_run import load_encoder, run_denoising

        if data is None:
            raise ValueError("recipe 'dvt' needs images without labels; name a folder or file with --data")
        console = Console(soft_wrap=True, highlight=False)
        encoder, preprocess = load_encoder(settings.encoder, **settings.encoder_settings)
        summary = run_denoising(
            data,
            out,
            encoder,
            preprocess,
            size=settings.image_size,
            view=settings.view,
            most_images=settings.most_images,
            decomposition=self.decomposition_of(settings),
            training=paper_training(**settings.training),
            heads=settings.heads,
            distil=settings.distil,
            distillation=paper_training(**{"batch_size": 512, "steps": 12_500, **settings.distillation}),
            pictures=settings.pictures,
            progress=lambda line: console.print(line, markup=False),
        )
        told = ", ".join(f"{name} {share:.3f}" for name, share in summary.explained.items())
        console.print(f"variance of tokens that their place explains: {told}", markup=False)
        console.print(f"model: {out / 'model'}", markup=False)

    def evidence(self, scale: Scale) -> Iterable[Evidence]:
        """See `foveal.recipes._dvt_evidence`."""
        from foveal.recipes._dvt_evidence import evidence

        return evidence(scale)


recipe = DvtRecipe()
