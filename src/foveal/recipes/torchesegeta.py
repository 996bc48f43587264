"""TorchEsegeta: one pipeline of attribution methods for classifiers and segmenters, of images and volumes.

foveal explain landmarks photographs --method saliency,grad-cam --out why
foveal verify torchesegeta
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from foveal.recipes.base import Card, Evidence, Paper, Recipe, Scale
from foveal.settings import Settings

if TYPE_CHECKING:
    from foveal.explanation.run import RunSummary

_METHODS = (
    "saliency input-x-gradient integrated-gradients gradient-shap deep-lift deep-lift-shap guided-backprop "
    "deconvolution guided-grad-cam occlusion feature-ablation shapley-sampling lime internal-influence "
    "layer-activation layer-conductance layer-gradient-shap layer-gradient-x-activation layer-deep-lift "
    "grad-cam score-cam excitation-backprop contrastive-excitation rise"
)


class TorchEsegetaSettings(Settings):
    """How to explain; the defaults are the published methods on whole volumes.

    The same names as in `foveal explain --config`, see docs/explain.md; the published "uncertainty" flags are
    `measures`, whether the batch or the depth comes first is told by (B, C, ...) alone.
    """

    methods: tuple[str | dict[str, Any], ...] = Field(tuple(_METHODS.split()), min_length=1)
    targets: tuple[int | str, ...] = Field(("predicted",), description="names, indices, predicted or all")
    where: Literal["predicted", "everywhere"] = "predicted"
    tile: int | tuple[int, ...] | None = Field(None, description="patch size; None (published: -1) is whole")
    overlap: float = Field(0.25, ge=0, le=0.9, description="share of a patch that neighbours share")
    blend: Literal["core", "mean"] = Field("mean", description="mean averages overlaps as published")
    autocast: Literal["float16", "bfloat16"] | None = Field(None, description="published: amp")
    timeout: float | None = Field(600.0, gt=0, description="seconds for one map")
    workers: int = Field(1, ge=1, description="processes; on a GPU they share it")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    measures: tuple[Literal["infidelity", "sensitivity", "randomisation"], ...] = (
        "infidelity",
        "sensitivity",
        "randomisation",
    )
    measure_samples: int = Field(2, ge=1, description="published: 1 for infidelity, 2 for sensitivity")
    perturbation: float = Field(
        0.01, gt=0, description="noise as a share of the range; the published 0.0001 measures float rounding"
    )
    seed: int = 0


class TorchEsegeta(Recipe[TorchEsegetaSettings]):
    """About forty methods by one signature, run so that a batch always finishes, and scored."""

    card = Card(
        slug="torchesegeta",
        title="TorchEsegeta: attribution methods for 2-D and 3-D classifiers and segmenters, in one pipeline",
        paper=Paper(
            citation="TorchEsegeta: Framework for Interpretability and Explainability of Image-Based Deep "
            "Learning Models, Applied Sciences 12(4):1834, 2022 (arXiv 2110.08429)",
            year=2022,
            link="https://arxiv.org/abs/2110.08429",
        ),
        task="A model, images or volumes, classes and methods in; a map of each, drawn and as numbers, with "
        "cost, infidelity and sensitivity, out.",
        published=(
            "Vessels in TOF-MRA volumes by U-Net, U-Net MSS and attention U-Nets: maps of the better model "
            "follow the vessels.",
            "Tables of infidelity and sensitivity by method and model: guided backprop and saliency among "
            "the lowest sensitivities (values unconfirmed).",
            "Cascading randomisation of weights passes by eye. No figure of accuracy is claimed.",
        ),
        original="https://github.com/soumickmj/TorchEsegeta",
        licence="none found",
        faithfulness="The pipeline, the families of methods and the measures are the paper's. Scores are "
        "sums of outputs over a mask that is held fixed, where the original counts voxels by out / out, "
        "whose gradient is 0, and thresholds anew for each changed image; volumes are summed over all "
        "axes, where it sums two. Guided gradients, excitation and RISE are written for any dimensions and "
        "for functional rectifiers; LIME takes supervoxels, not slices. Noise of the measures is 0.01 of "
        "the range, not 0.0001. Processes are killed at their time-out; NIfTI keeps its affine. One image "
        "input; patches larger than memory are not streamed from disk.",
        built_from=(
            "explanation.methods",
            "explanation.captum_methods (captum)",
            "explanation.tiled",
            "explanation.run",
            "explanation.faithfulness",
            "explanation.randomisation",
        ),
    )
    Settings = TorchEsegetaSettings

    def build(self, settings: TorchEsegetaSettings) -> Callable[..., RunSummary]:
        """`run_explanations` with these settings: (model, cases, out) to maps and tables."""
        from functools import partial

        from foveal.explanation.run import run_explanations
        from foveal.explanation.run_settings import ExplainSettings

        return partial(run_explanations, settings=ExplainSettings.model_validate(settings.model_dump()))

    def evidence(self, scale: Scale) -> Iterable[Evidence]:
        """See `foveal.recipes._torchesegeta_evidence`."""
        from foveal.recipes._torchesegeta_evidence import evidence

        return evidence(scale)


recipe = TorchEsegeta()
