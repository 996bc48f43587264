"""Salient relevance: attention areas from layer-wise relevance propagation and context-aware saliency.

foveal explain MODEL IMAGE --method salient-relevance
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from foveal.recipes.base import Card, Evidence, Paper, Recipe, Scale
from foveal.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor, nn

    from foveal.explanation.targets import Target

    Explained = Callable[[nn.Module, Tensor, Target], tuple[Tensor, Tensor]]


class SalientRelevanceSettings(Settings):
    """Rules of the propagation and of the saliency; the defaults are the original's, and Goferman's."""

    composite: str = Field(
        "official", description="rules of the propagation, see foveal.explanation.lrp.COMPOSITES"
    )
    content: Literal["size", "signed"] = Field("size", description="of the relevance of each channel")
    colours: Literal["lab", "channels"] = Field("lab", description="how three channels are compared")
    scales: tuple[float, ...] = Field((1.0, 0.8, 0.5, 0.3), description="of patches, of a map of 250 px")
    neighbours: int = Field(64, ge=1, description="most similar patches of each patch")
    position_weight: float = Field(3.0, ge=0, description="how much more near patches count")


class SalientRelevance(Recipe[SalientRelevanceSettings]):
    """There is nothing to train: it explains models that are."""

    card = Card(
        slug="salient-relevance",
        title="Salient relevance: coherent areas of attention from the relevance of pixels",
        paper=Paper(
            citation="Beyond saliency: understanding convolutional neural networks from saliency prediction "
            "on layer-wise relevance propagation, Image and Vision Computing 2019",
            year=2019,
            link="https://arxiv.org/abs/1712.08268",
        ),
        task="An image and a trained classifier in; the relevance of each pixel for a class, which adds up "
        "to the logit, and areas that stand out in it, in [0, 1], with boxes above a threshold.",
        published=(
            "Qualitative: on ImageNet with AlexNet and VGG-16 and on VGG-Face the maps give contiguous "
            "areas; VGG-16 keeps closer to the object than AlexNet; failures are seen as attention to the "
            "ground.",
            "No figure of a benchmark.",
        ),
        original="https://github.com/Hey1Li/Salient-Relevance-Propagation",
        licence="MIT (notebooks of the propagation; the saliency was an outside tool)",
        faithfulness="The propagation is one engine for any network, with the original's rules as the "
        "composite 'official' and those of the field beside it; for attention the rules of AttnLRP and "
        "CP-LRP. What the paper leaves open of the saliency, size of patches and treatment of channels, is "
        "Goferman's. Patches between pixels are interpolated, so that a mirrored image has the mirrored map.",
        built_from=(
            "explanation.lrp",
            "explanation.context_saliency",
            "scikit-image: Lab, connected areas",
            "scipy: distances to foci",
        ),
    )
    Settings = SalientRelevanceSettings

    def build(self, settings: SalientRelevanceSettings) -> Explained:
        """A function from a model, images (B, C, H, W) and a target to both maps.

        The relevance is (B, C, H, W) and adds up to the score, the areas are (B, H, W) in [0, 1].
        """
        from foveal.explanation.context_saliency import context_saliency
        from foveal.explanation.methods import attribute

        def explained(model: nn.Module, images: Tensor, target: Target = None) -> tuple[Tensor, Tensor]:
            relevance = attribute(model, images, target, method="lrp", composite=settings.composite)
            salient = context_saliency(
                relevance.abs() if settings.content == "size" else relevance,
                scales=settings.scales,
                neighbours=settings.neighbours,
                position_weight=settings.position_weight,
                colours=settings.colours,
            )
            return relevance, salient

        return explained

    def evidence(self, scale: Scale) -> Iterable[Evidence]:
        """See `foveal.recipes._salient_relevance_evidence`."""
        from foveal.recipes._salient_relevance_evidence import evidence

        return evidence(scale)


recipe = SalientRelevance()
