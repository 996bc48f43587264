"""LRP-QViT: transformers in few bits, more of them for layers through which more relevance goes.

foveal compress MODEL --method lrp-qvit --target 6bit --data DATA --out FOLDER
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from foveal.recipes.base import Card, Evidence, Paper, Recipe, Scale
from foveal.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor, nn

    Quantized = Callable[[nn.Module, Tensor], tuple[nn.Module, list[dict[str, Any]]]]


class LrpQvitSettings(Settings):
    """Bits, how they are allotted, and grids; the defaults are the paper's."""

    bits: float = Field(4, ge=2, le=8, description="mean of weights and of inputs")
    mixed: bool = Field(True, description="allotted by relevance; else the same for all")
    utility: Literal["linear", "concave", "joint"] = Field("linear", description="what bits are worth")
    budget: Literal["bits", "size", "bitops", "size and bitops"] = "bits"
    separate: bool = Field(False, description="weights and inputs of a layer may have different bits")
    measure: Literal["size", "positive", "share"] = Field("size", description="of relevance in a layer")
    rules: str = Field("chefer", description="of the propagation, see foveal.explanation.lrp.COMPOSITES")
    quantizer: Literal["clipped", "reparameterised", "min-max"] = "clipped"
    clip: tuple[float, ...] = Field((0.0, 0.005, 0.01, 0.02, 0.05), description="shares that are tried")
    attention_weights: Literal["log-sqrt2", "uniform", "least error"] = "log-sqrt2"
    products: bool = Field(True, description="products of attention are quantised, too")
    calibration: int = Field(32, ge=1, description="images that tell ranges")


class LrpQvit(Recipe[LrpQvitSettings]):
    """There is nothing to train: `build` gives a function from a trained model to one of few bits.

    model, layers = recipe.build(LrpQvitSettings(bits=6))(classifier, images)
    """

    card = Card(
        slug="lrp-qvit",
        title="LRP-QViT: vision transformers in few bits, allotted by layer-wise relevance",
        paper=Paper(
            citation="LRP-QViT: Mixed-Precision Vision Transformer Quantization via Layer-wise Relevance "
            "Propagation, 2024",
            year=2024,
            link="https://arxiv.org/abs/2401.11243",
        ),
        task="A trained ViT, DeiT or Swin, a few hundred images without labels and a mean number of bits in; "
        "the model with packed weights of 2 to 8 bits out, with the bits and the contribution of each layer.",
        published=(
            "ImageNet top-1 of the base, RepQ-ViT, W4/A4 (from memory): ViT-S 65.05, ViT-B 68.48, DeiT-T "
            "57.43, DeiT-S 69.03, DeiT-B 75.61, Swin-S 79.45; W6/A6: 80.43, 83.62, 70.76, 78.90, 81.27, "
            "82.79; in floats 81.39, 84.54, 72.21, 79.85, 81.80, 83.23.",
            "LRP-QViT: clipped above RepQ-ViT at both widths, mixed above fixed; roughly 1 to 4 points at 4 "
            "bits and tenths at 6 (cells unconfirmed). Detection on COCO with Swin gains as well.",
        ),
        original="none found; its base is https://github.com/zkkli/RepQ-ViT",
        licence="none (RepQ-ViT: Apache-2.0; nothing of it is used)",
        faithfulness="Grids, scaled norms and Chefer's rules are the published ones; the common zero-point "
        "is rounded, which the original leaves out. What the paper leaves open is chosen here: the band of "
        "clipping by the least error of the layer's output among five shares (0 is one of them), widths up "
        "to 2 from the mean, 256 images for relevance. `foveal compress` takes a concave utility of bits "
        "and the share of relevance in a layer's branch; the paper's linear one, the default of these "
        "settings, pushes layers to the ends. Layers that read one norm, such as queries, keys and values, "
        "share their bits. The joint utility of Mix-QViT is taken without its terms between layers. Scores "
        "are computed in 32 bits with 64 at residual sums. Results are computed in floats on the grids, so "
        "the file is smaller and the model no faster. Not run on ImageNet here.",
        built_from=(
            "compression.quantizing, calibration, quantizers",
            "compression.layer_relevance, explanation.lrp",
            "compression.allocation: SciPy's integer programme",
            "blocks.quantized_linear, quantized_attention",
        ),
    )
    Settings = LrpQvitSettings

    def build(self, settings: LrpQvitSettings) -> Quantized:
        """A function from a trained model and images (N, C, H, W) to a copy in few bits and its layers.

        Raises:
            ValueError: when called, the model does not suit; tells the module.
        """
        from copy import deepcopy

        from foveal.compression.mixed_precision import quantize_mixed

        options = settings.model_dump(exclude={"bits"})

        def quantized(model: nn.Module, images: Tensor) -> tuple[nn.Module, list[dict[str, Any]]]:
            small = deepcopy(model).eval()
            return small, quantize_mixed(small, images, settings.bits, **options).rows

        return quantized

    def evidence(self, scale: Scale) -> Iterable[Evidence]:
        """See `foveal.recipes._lrp_qvit_evidence`."""
        from foveal.recipes._lrp_qvit_evidence import evidence

        return evidence(scale)


recipe = LrpQvit()
