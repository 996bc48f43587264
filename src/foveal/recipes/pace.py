"""PACE: concepts of a frozen vision transformer, for a data set, an image and a patch.

foveal train pace --set model=MODEL --data FOLDER --out runs/concepts
foveal verify pace
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from foveal.recipes.base import Card, Evidence, Paper, Recipe, Scale
from foveal.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor, nn

    from foveal.explanation.pace import Pace, PaceSettings


class PaceRecipeSettings(Settings):
    """The model, and all of `foveal.explanation.pace.PaceSettings`, which explains them."""

    model: str = Field("", description="folder of a saved model, or a shipped one; to train")
    concepts: int = Field(100, ge=1)
    dimensions: int = Field(25, ge=1)
    reducer: Literal["random", "pca"] = "random"
    start_means: Literal["k-means++", "normal"] = "k-means++"
    alpha: float | tuple[float, ...] = 2.0
    weighting: Literal["power", "likelihood", "count"] = "power"
    start: Literal["even", "random"] = "even"
    iterations: int = Field(10, ge=1)
    faithfulness: float = Field(1.0, ge=0)
    stability: float = Field(1.0, ge=0)
    temperature: float = Field(0.1, gt=0)
    keep: float = Field(0.75, ge=0, lt=1)
    prior_strength: float = Field(500.0, ge=0)
    prior_counts: Literal["tokens", "steps"] = "tokens"
    prior_spread: Literal["within", "identity"] = "within"
    ridge: float = Field(1e-4, gt=0)
    label_learning_rate: float = Field(1.0, gt=0)
    label_steps: int = Field(10, ge=1)
    epochs: int = Field(1, ge=1)
    batch_size: int = Field(16, ge=1)
    sample_images: int = Field(256, ge=1)
    reseed_after: int = Field(10, ge=1)
    seed: int = 2021
    block: int = -1
    layer: str | None = None
    attention: Literal["auto", "class", "pooled", "equal"] = "auto"
    tokens: Literal["all", "patches"] = "all"
    prefix_tokens: int | None = None
    grid: tuple[int, ...] | None = None


class PaceRecipe(Recipe[PaceRecipeSettings]):
    """Concepts of a model of one's own: `build` gives the function that fits them."""

    card = Card(
        slug="pace",
        title="PACE: probabilistic concepts of a frozen vision transformer's patches",
        paper=Paper(
            citation="Probabilistic Conceptual Explainers: Trustworthy Conceptual Explanations for Vision "
            "Foundation Models, ICML 2024",
            year=2024,
            link="https://arxiv.org/abs/2406.12649",
        ),
        task="A frozen model and images without labels in; concepts out, each a Gaussian over patches with "
        "its nearest patches as picture, the mixture of concepts of an image, maps of each concept, and "
        "which concepts drive which class.",
        published=(
            "Best on faithfulness, stability and sparsity beside SHAP, LIME, saliency, AGI and CRAFT, on "
            "Color, Flowers-102, Stanford Cars and CUB-200 (figures of the cells unconfirmed).",
            "Color: the four true colours and black are found; linear faithfulness near 1.0.",
        ),
        original="https://github.com/Wang-ML-Lab/interpretable-foundation-models",
        licence="none (nothing of it is used)",
        faithfulness="Model, E-step and its terms are the paper's, as exact coordinate ascent: attention, "
        "label and contrastive term stand in the exponent, where the released code adds the terms to phi "
        "through a hand-written Adam and cancels the attention. Covariances by Cholesky factors with 1e-4 I "
        "added, blended as covariances and centred on the new mean; statistics, not means, are averaged; eta "
        "ascends, by steps of 1.0 for 0.01. The prior's 500 stand against tokens, not batches "
        "(`prior_counts`), and are spread as tokens within clusters, not as the identity "
        "(`prior_spread`). Means start from clusters. Not run on Flowers-102, Cars and CUB-200 here.",
        built_from=(
            "explanation.pace",
            "blocks.attention_taps",
            "explanation.concept_metrics",
            "torch: digamma, Cholesky factors",
            "scikit-learn: KMeans, LogisticRegression",
        ),
    )
    Settings = PaceRecipeSettings

    def build(self, settings: PaceRecipeSettings) -> Callable[[nn.Module, Tensor | Iterable[Tensor]], Pace]:
        """A function from a model and its images, or batches of them, to the model with its concepts."""
        from foveal.explanation.pace_fitting import fit_pace

        def fitted(model: nn.Module, images: Tensor | Iterable[Tensor]) -> Pace:
            return fit_pace(model, images, _fitting(settings))

        return fitted

    def evidence(self, scale: Scale) -> Iterable[Evidence]:
        """See `foveal.recipes._pace_evidence`."""
        from foveal.recipes._pace_evidence import evidence

        return evidence(scale)

    def train(self, settings: PaceRecipeSettings, *, data: Path | None, out: Path) -> None:
        """Fit concepts of a saved model to a folder of images, and tell what they are; see `fit_pace_files`.

        Raises:
            ValueError: no model or no data is told.
        """
        from rich.console import Console

        from foveal.explanation.pace_files import fit_pace_files

        if not settings.model or data is None:
            raise ValueError(
                "PACE needs a model and images: --set model=FOLDER_OR_NAME --data FOLDER (no labels)"
            )
        done = fit_pace_files(settings.model, data, out, _fitting(settings))
        console = Console(soft_wrap=True, highlight=False)
        for line in done.told():
            console.print(line, markup=False)


def _fitting(settings: PaceRecipeSettings) -> PaceSettings:
    from foveal.explanation.pace import PaceSettings

    return PaceSettings(**settings.model_dump(exclude={"model"}))


recipe = PaceRecipe()
