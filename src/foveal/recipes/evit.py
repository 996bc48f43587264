"""EViT: a vision transformer that drops the patches it does not attend to, and fuses them into one token.

foveal compress MODEL --method evit --target 1.5x --data DATA --tune 1000 --out SMALLER
foveal explain SMALLER IMAGES --method kept-patches --out pictures
foveal train evit --data FOLDER_OR_NPZ --out runs/evit
foveal verify evit
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal, cast

from pydantic import Field

from foveal.recipes.base import Card, Evidence, Paper, Scale
from foveal.recipes.encoder_recipe import DeitSettings, EncoderRecipe

if TYPE_CHECKING:
    from foveal.models.classifier import Classifier
    from foveal.objectives.base import Objective
    from foveal.objectives.classification import ClassificationObjective

_EPOCH = 626  # steps of ImageNet-1k at 2048 images each


def _paper_training() -> dict[str, Any]:
    return {
        "steps": 300 * _EPOCH,
        "batch_size": 2048,
        "learning_rate": 5e-4 * 2048 / 512,
        "minimum_factor": 0.005,
        "weight_decay": 0.05,
        "warmup_steps": 5 * _EPOCH,
    }


class EvitSettings(DeitSettings):
    """Hyper-parameters; the defaults are those of EViT-DeiT-S from nothing on ImageNet-1k (300 epochs).

    The paper tunes a trained DeiT for 30 epochs instead: `start_from` its weights, `shrink_start` and
    `shrink_share` 0, learning_rate 2e-5 (times batch_size / 512) with a hundredth less in the end
    (minimum_factor 0.1), weight_decay 1e-6. Its models of higher resolution have `image_size` 256, 288 or 304
    and keep_rate 0.5 to 0.7; tables of positions are interpolated.
    """

    model: str = Field("deit_small_patch16_224", description="timm's name of a vision transformer")
    keep_rate: float | tuple[float, ...] = Field(0.7, description="of each of `at`, or one for all")
    at: tuple[int, ...] = Field((3, 6, 9), description="blocks that drop tokens, from 0")
    fuse: bool = Field(True, description="put the dropped tokens of a block into one")
    score: Literal["class", "received"] | None = Field(None, description="see foveal.blocks.reduced_tokens")
    unpool: Literal["own", "fused"] = Field("own", description="the same, for dense heads")
    shrink_start: float = Field(10 / 300, ge=0, le=1, description="share of the steps that keep all tokens")
    shrink_share: float = Field(100 / 300, ge=0, le=1, description="share in which the keep rate then falls")
    drop_path: float = Field(0.1, ge=0, lt=1)
    training: dict[str, Any] = Field(default_factory=_paper_training, description="of TrainingSettings")


class EvitRecipe(EncoderRecipe[EvitSettings]):
    """No weight is added: any trained vision transformer becomes faster as it is, better after tuning."""

    card = Card(
        slug="evit",
        title="EViT: keep attentive tokens, fuse the rest, inside a vision transformer",
        paper=Paper(
            citation="Not All Patches are What You Need: Expediting Vision Transformers via Token "
            "Reorganizations, ICLR 2022 (spotlight)",
            year=2022,
            link="https://arxiv.org/abs/2202.07800",
        ),
        task="A trained vision transformer in; the same weights out, 1.3 to 1.9 times as fast, with the "
        "patches that it kept of each image as an explanation, and dense features on the whole grid.",
        published=(
            "ImageNet-1k, DeiT-S with fusion: 79.8 top-1, 4.6 GMACs, about 2923 images a second; keep rate "
            "0.9: 79.8 / 4.0 / 3197; 0.8: 79.8 / 3.5 / 3619; 0.7: 79.5 / 3.0 / 4385 (+50 %); 0.6: 78.9 / "
            "2.6 / 4722; 0.5: 78.5 / 2.3 / 5408 (+85 %).",
            "Without fusion, keep rate 0.9 to 0.5: 79.9, 79.7, 79.4, 79.1, 78.4.",
            "DeiT-B at 0.7: 81.3 against 81.8, 59 % faster; LV-ViT-S at 0.7 about 83.0 against 83.3 "
            "(unconfirmed).",
            "304 px at keep rate 0.5, cost of DeiT-S: about 81.0 (unconfirmed).",
            "Random or inverse selection loses several points; fusion helps most at low keep rates. Others "
            "reached 79.35 at 0.7; below a quarter of the operations the method is said to be weak.",
        ),
        original="https://github.com/youweiliang/evit",
        licence="Apache-2.0 (nothing of it is copied)",
        faithfulness="Counts, ranking, weighted sum and schedule are the paper's. Attention is torch's fused "
        "one, and the class token's row is computed beside it, without dropout. A distillation token and "
        "registers never leave. Models without a class token rank by the mean attention received. Behind the "
        "last block the tokens are on the whole grid again. LV-ViT with its token distillation is not there, "
        "timm has none. Not trained on ImageNet here.",
        built_from=(
            "blocks.reduced_tokens",
            "blocks.token_selection",
            "compression.evit",
            "compression.costs",
            "explanation.kept_patches",
            "timm: VisionTransformer",
            "transformers: ViT, DeiT, DINOv2, CLIP, SigLIP",
            "torch: FlopCounterMode",
        ),
    )
    Settings = EvitSettings

    def encoder_config(self, settings: EvitSettings) -> tuple[str, dict[str, Any]]:
        """Name and settings of the whole encoder."""
        return f"timm/{settings.model}", {"image_size": settings.image_size, "drop_path": settings.drop_path}

    def build(self, settings: EvitSettings) -> Classifier:
        """The untrained classifier with reduced tokens, as it is after training.

        Raises:
            ValueError: blocks or keep rates that the model does not have.
        """
        model = super().build(settings)
        self._reduce(model, settings)
        return model

    def objective(self, settings: EvitSettings, plain: ClassificationObjective) -> Objective:
        """Before the training the tokens of its model are reduced; the keep rate falls while it is trained.

        A training that goes on after a stop begins this fall again.

        Raises:
            ValueError: see `build`; or a fall that ends after the training.
        """
        from foveal.blocks.reduced_tokens import warm_up_keep_rate
        from foveal.training.settings import TrainingSettings

        if settings.shrink_start + settings.shrink_share > 1:
            raise ValueError(
                f"shrink_start {settings.shrink_start:g} and shrink_share {settings.shrink_share:g} are more "
                "than the whole training; allowed: a sum of at most 1"
            )
        model = cast("Classifier", plain.model)
        self._reduce(model, settings)
        training = TrainingSettings.model_validate(settings.training)
        passes = training.steps * training.gradient_accumulation
        start, steps = (int(passes * share) for share in (settings.shrink_start, settings.shrink_share))
        if start + steps:
            warm_up_keep_rate(model.encoder, start=start, steps=steps)
        return plain

    def _reduce(self, model: Classifier, settings: EvitSettings) -> None:
        from foveal.blocks.changes import change_model

        rate = settings.keep_rate
        change_model(
            model.encoder,
            "reduced-tokens",
            at=list(settings.at),
            keep_rate=list(rate) if isinstance(rate, tuple) else rate,
            fuse=settings.fuse,
            score=settings.score,
            unpool=settings.unpool,
        )

    def evidence(self, scale: Scale) -> Iterable[Evidence]:
        """See `foveal.recipes._evit_evidence`."""
        from foveal.recipes._evit_evidence import evidence

        return evidence(scale)


recipe = EvitRecipe()
