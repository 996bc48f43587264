"""T-TAME: a trained head that explains every class of a frozen model in one forward pass.

foveal verify t-tame
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from foveal.recipes.base import Card, Evidence, Paper, Recipe, Scale
from foveal.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor, nn

    from foveal.explanation.ttame import TTame
    from foveal.training.sampling import SampledDataset


def _paper_training() -> dict[str, Any]:
    """8 epochs of ImageNet in batches of 32; the one-cycle schedule is a warm-up and a cosine here."""
    return {
        "steps": 320_000,
        "batch_size": 32,
        "optimizer": "sgd",
        "learning_rate": 1e-3,
        "weight_decay": 5e-4,
        "warmup_fraction": 0.3,
    }


class TTameSettings(Settings):
    """Head, losses and training; the defaults are the paper's."""

    layers: tuple[str, ...] = Field((), description="1 to 3 layers of the model, the finest first; needed")
    class_token: Literal["multiply", "drop"] = "multiply"
    prefix_tokens: int | None = Field(None, description="tokens before the patches; None reads 0 or 1 off")
    skip: bool = True
    norm: bool = True
    activation: Literal["relu", "sigmoid"] = "relu"
    branches: Literal["convolution", "attention"] = "convolution"
    heads: int = Field(12, ge=1, description="of branches of attention")
    masking: Literal["standardised", "raw"] = "standardised"
    classification: float = Field(1.5, ge=0, description="weight of the cross-entropy")
    area: float = Field(2.0, ge=0, description="weight of the area")
    variation: float = Field(0.01, ge=0, description="weight of the total variation")
    power: float = Field(0.3, gt=0, description="of the area")
    regularise: Literal["batch", "own"] = "batch"
    training: dict[str, Any] = Field(default_factory=_paper_training, description="of TrainingSettings")


class TTameRecipe(Recipe[TTameSettings]):
    """A head on a model of one's own: `build` gives the function that trains it."""

    card = Card(
        slug="t-tame",
        title="T-TAME: a trained attention head that explains every class in one forward pass",
        paper=Paper(
            citation="T-TAME: Trainable Attention Mechanism for Explaining Convolutional Networks and Vision "
            "Transformers, IEEE Access 2024",
            year=2024,
            link="https://arxiv.org/abs/2403.04523",
        ),
        task="A frozen classifier, names of one to three of its layers and images without labels in; a small "
        "trained head out, which gives a map of every class in the model's own forward pass.",
        published=(
            "ImageNet, average drop and increase in confidence at 100, 50 and 15 % of the pixels (from "
            "memory, unconfirmed): VGG-16 9.3/50.0, 36.5/22.5, 73.3/5.6; ResNet-50 7.8/54.0, 27.9/27.5, "
            "78.6/4.9; Grad-CAM on VGG-16 about 32/22 at 100 %, RISE about 8.7/51.",
            "ViT-B-16: best in most cells beside Grad-CAM, Grad-CAM++, Score-CAM, Ablation-CAM, RISE, IIA "
            "and transformer LRP.",
            "As good as RISE of thousands of passes, with one.",
        ),
        original="https://github.com/IDT-ITI/T-TAME",
        licence="academic, non-commercial (nothing of it is used)",
        faithfulness="Head, masking, losses and both ways with the class token are the paper's; the frozen "
        "model stays in evaluation mode in both passes, where the original's dropout and normalisation are "
        "switched to training in the second. The one-cycle schedule is a warm-up and a cosine. How "
        "the branches of attention are put together is told in a word only, and is ours. Not trained on "
        "ImageNet here.",
        built_from=(
            "explanation.ttame",
            "explanation.taps",
            "explanation.faithfulness",
            "training.loop",
        ),
    )
    Settings = TTameSettings

    def build(self, settings: TTameSettings) -> Callable[[nn.Module, Tensor, SampledDataset], TTame]:
        """A function from a model, a few images and training samples (`images`) to the trained head.

        Raises:
            ValueError: no layer is named, or one that the model has not.
        """
        from foveal.explanation.ttame import TTame, TTameObjective
        from foveal.training import TrainingSettings, fit

        if not settings.layers:
            raise ValueError(
                "layers is empty; name one to three layers of the model, e.g. layers=('layer4',)"
            )
        head = settings.model_dump(
            include={
                "class_token", "prefix_tokens", "skip", "norm", "activation", "branches", "heads"
            }
        )  # fmt: skip
        losses = settings.model_dump(
            include={"masking", "classification", "area", "variation", "power", "regularise"}
        )

        def train(model: nn.Module, images: Tensor, samples: SampledDataset) -> TTame:
            training = TrainingSettings.model_validate(settings.training)
            explained = TTame.untrained(model, images, settings.layers, seed=training.seed, **head)
            fit(TTameObjective(explained, **losses), samples, training, progress=False)
            return explained.eval()

        return train

    def evidence(self, scale: Scale) -> Iterable[Evidence]:
        """See `foveal.recipes._t_tame_evidence`."""
        from foveal.recipes._t_tame_evidence import evidence

        return evidence(scale)


recipe = TTameRecipe()
