"""Attention analytics: which heads of a vision transformer matter, how far they look, what they learn.

foveal attention MODEL IMAGES --out report
foveal verify attention-analytics
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from foveal.recipes.base import Card, Evidence, Paper, Recipe, Scale
from foveal.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor, nn

    from foveal.explanation.attention_analysis import AttentionAnalysis


class AttentionAnalyticsSettings(Settings):
    """What the analysis is made with; `foveal.explanation.attention_analysis.AttentionSettings` has more."""

    ablation: Literal["zero", "mean"] = Field("zero", description="what takes the place of a head")
    representation: Literal["offset", "matrix"] = Field("offset", description="of patterns")
    latent: int = Field(32, ge=1, description="length of a pattern's code")
    epochs: int = Field(50, ge=1, description="of the autoencoder, in batches of 64 with Adam at 1e-3")
    clusters: int | None = Field(
        None, ge=1, description="of patterns; 4 to 12 by the silhouette if not given"
    )
    clustering: Literal["k-means", "hdbscan"] = "k-means"
    projection: Literal["pca", "t-sne", "umap"] = Field("pca", description="of codes to two dimensions")
    top: int = Field(10, ge=1, description="heads in the table of the most important")
    seed: int = 0


class AttentionAnalytics(Recipe[AttentionAnalyticsSettings]):
    """`build` gives the function that analyses a model over images."""

    card = Card(
        slug="attention-analytics",
        title="Attention analytics: which heads of a transformer matter, how far they look, what they learn",
        paper=Paper(
            citation="Li et al., How Does Attention Work in Vision Transformers? A Visual Analytics "
            "Attempt, IEEE Transactions on Visualization and Computer Graphics (PacificVis) 2023",
            year=2023,
            link="https://arxiv.org/abs/2303.13731",
        ),
        task="Any model with attention and a sample of images, labelled or not, in; the importance of every "
        "head by several measures, its attention over distance, a map of attention patterns with prototypes "
        "and names, and a report that joins them out, to audit a model or to prune its heads.",
        published=(
            "Qualitative findings of case studies with experts: importance is very uneven, many heads can "
            "be pruned with little loss, and some removals improve the model.",
            "Early layers mix local and global heads, attention spreads with depth, late layers attend "
            "broadly.",
            "Important heads of early layers concentrate on close neighbours (unconfirmed).",
            "A small dictionary of recurring patterns describes all heads.",
        ),
        original="none released",
        licence="none",
        faithfulness="Gates before the output projection, measures of importance, rings of patches and "
        "codes of an autoencoder with clusters are the paper's in kind; what its abstract leaves open are "
        "defaults of this recipe: a convolutional autoencoder with 32 values, k-means with the silhouette, "
        "names by rule. Maps of offsets are what it learns by default, at a fiftieth of the matrices' size; "
        "whole matrices are an option. Its interactive views are one page that opens from disk. The paper "
        "has no numbers to match.",
        built_from=(
            "explanation.head_importance",
            "explanation.attention_profiles",
            "explanation.attention_patterns",
            "explanation.pattern_atlas",
            "explanation.attention_report",
            "training.loop",
            "scikit-learn",
            "scipy.stats",
        ),
    )
    Settings = AttentionAnalyticsSettings

    def build(
        self, settings: AttentionAnalyticsSettings
    ) -> Callable[[nn.Module, Tensor, Tensor | None], AttentionAnalysis]:
        """A function from a model, images (B, C, H, W) and labels (B,) or None to the analysis.

        `foveal.explanation.attention_report.write_attention_report` writes it.
        """
        from foveal.explanation.attention_analysis import AttentionSettings, analyse_attention

        chosen = AttentionSettings(**settings.model_dump())

        def analyse(model: nn.Module, images: Tensor, labels: Tensor | None) -> AttentionAnalysis:
            return analyse_attention(model, images, labels, chosen)

        return analyse

    def evidence(self, scale: Scale) -> Iterable[Evidence]:
        """See `foveal.recipes._attention_analytics_evidence`."""
        from foveal.recipes._attention_analytics_evidence import evidence

        return evidence(scale)


recipe = AttentionAnalytics()
