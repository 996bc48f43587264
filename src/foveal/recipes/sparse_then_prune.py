"""Sparse then Prune: a penalty on attention while a vision transformer is tuned, then one-shot pruning.

foveal train sparse-then-prune --data FOLDER_OR_NPZ --out runs/sparse
foveal compress runs/sparse/model --method sparse-then-prune --target 70% --data FOLDER_OR_NPZ --out small
foveal verify sparse-then-prune
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from foveal.recipes.base import Card, Evidence, Paper, Scale
from foveal.recipes.encoder_recipe import EncoderRecipe, EncoderSettings

if TYPE_CHECKING:
    from foveal.objectives.base import Objective
    from foveal.objectives.classification import ClassificationObjective


def _paper_training() -> dict[str, Any]:
    """20 epochs of CIFAR's 50,000 images; the one-cycle schedule is a warm-up of 500 steps and a cosine."""
    return {
        "steps": 20 * 3125,
        "batch_size": 16,
        "optimizer": "sgd",
        "momentum": 0.9,
        "learning_rate": 1e-3,
        "weight_decay": 1e-4,
        "warmup_steps": 500,
        "final_weights": "best",
    }


class SparseThenPruneSettings(EncoderSettings):
    """Encoder, penalty and training; the defaults are the paper's on CIFAR.

    `encoder_settings={"pretrained": true}` takes timm's weights where they can be had, `start_from` those of
    a file or of a saved model; the penalty is meant for a model that is trained already. Of encoders that are
    not timm's tell the image size in `encoder_settings` where they want it.
    """

    encoder: str = Field(
        "timm/vit_base_patch16_384", description="any whose attention can be read: timm, transformers"
    )
    image_size: int = Field(384, ge=16, description="pixels along each side of the square input")
    dropout: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="of positions, projections and MLPs of timm's ViT and DeiT; never of attention",
    )
    penalty: float = Field(0.01, ge=0, description="weight of the penalty (lambda); 0 is plain tuning")
    penalty_layers: Literal["last", "mean", "sum"] = Field(
        "last", description="the last block's attention alone, as released, or that of all blocks"
    )
    penalty_target: Literal["probs", "logits"] = Field(
        "probs", description="attention as published, or the scores before its softmax"
    )
    penalty_sign: Literal[1, -1] = Field(
        1, description="1 as published, which evens attention out; -1 sharpens it"
    )
    mean: tuple[float, ...] | None = Field(
        None, description="of each channel, 0.5 where it is left out; None measures it"
    )
    std: tuple[float, ...] | None = Field(
        None, description="of each channel, 0.5 where it is left out; None measures it"
    )
    training: dict[str, Any] = Field(default_factory=_paper_training, description="of TrainingSettings")

    @model_validator(mode="before")
    @classmethod
    def _half(cls, given: Any) -> Any:
        """The paper's mean and deviation, for as many channels as there are."""
        if not isinstance(given, dict):
            return given
        channels = given.get("in_channels", 3)
        half = (0.5,) * channels if isinstance(channels, int) else None
        return {"mean": half, "std": half, **given}


class SparseThenPrune(EncoderRecipe[SparseThenPruneSettings]):
    """A vision transformer, tuned with the log-sum penalty and pruned by `foveal compress`."""

    card = Card(
        slug="sparse-then-prune",
        title="Sparse then Prune: penalised attention, then global magnitude pruning without retraining",
        paper=Paper(
            citation="Sparse then Prune: Toward Efficient Vision Transformers, 2023",
            year=2023,
            link="https://arxiv.org/abs/2307.11988",
        ),
        task="A trained vision transformer and labelled images in; one with a chosen share of its weights at "
        "0 out, with a table of accuracy against sparsity, sizes as sparse files, and the entropy of "
        "attention.",
        published=(
            "Pruned with the penalty minus pruned without, mean over the pruning ratios, one run each: "
            "CIFAR-10 +0.568 %, CIFAR-100 +1.764 %, ImageNet-100 +0.256 %.",
            "Unpruned, with the penalty: +0.12 % on CIFAR-100 and ImageNet-100; CIFAR-10 about equal or "
            "slightly lower (about 97 to 98 %, unconfirmed).",
            "Accuracy falls gently to about 20 to 30 % sparsity and collapses beyond (unconfirmed).",
        ),
        original="https://github.com/yogiprsty/Sparse-ViT",
        licence="none",
        faithfulness="Penalty of the last block's attention with weight 0.01, what is pruned (norms of "
        "blocks too) and one global threshold without retraining are the original's. The log-sum of "
        "probabilities is least where attention is even, so the published sign spreads attention and no "
        "sparsity of it is claimed; a penalty on the scores and the other sign are options. The one-cycle "
        "schedule is a warm-up and a cosine at constant momentum, SGD's momentum is Nesterov's, norms and "
        "biases have no weight decay, and the best checkpoint is told by validation, not by the training "
        "loss. Queries, keys and values are one layer, which changes no mask. Not trained on CIFAR-100 or "
        "ImageNet-100 here.",
        built_from=(
            "objectives.attention_sparsity",
            "blocks.attention_taps",
            "compression.magnitude_pruning",
            "compression.pruning_sweep",
            "sparse_files",
            "compression.masks",
            "timm: VisionTransformer",
        ),
    )
    Settings = SparseThenPruneSettings

    def encoder_config(self, settings: SparseThenPruneSettings) -> tuple[str, dict[str, Any]]:
        """Name and settings of the encoder."""
        made: dict[str, Any] = {}
        if settings.encoder.startswith("timm/"):
            made["image_size"] = settings.image_size
        if settings.encoder.startswith(("timm/vit_", "timm/deit")):
            made |= {"pos_drop_rate": settings.dropout, "proj_drop_rate": settings.dropout}
        return settings.encoder, made

    def objective(self, settings: SparseThenPruneSettings, plain: ClassificationObjective) -> Objective:
        """The classification loss and the penalty, which the log tells as `attention`."""
        from foveal.objectives.attention_sparsity import AttentionSparsityObjective

        return AttentionSparsityObjective(
            plain,
            weight=settings.penalty,
            layers=settings.penalty_layers,
            target=settings.penalty_target,
            sign=settings.penalty_sign,
        )

    def evidence(self, scale: Scale) -> Iterable[Evidence]:
        """See `foveal.recipes._sparse_then_prune_evidence`."""
        from foveal.recipes._sparse_then_prune_evidence import evidence

        return evidence(scale)


recipe = SparseThenPrune()
