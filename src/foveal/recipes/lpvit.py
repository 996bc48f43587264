"""LPViT: tiles of a vision transformer's weights pruned after training, under a budget of operations.

foveal compress MODEL --method lpvit --target 2x --data DATA --tune 1000 --out SMALLER
foveal verify lpvit
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from foveal.recipes.base import Card, Evidence, Paper, Recipe, Scale
from foveal.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor, nn

    from foveal.compression.block_pruning import BlockPruning


def _paper_tuning() -> dict[str, Any]:
    """300 epochs of ImageNet with DeiT's recipe, for 4 GPUs of 128 images; masks are held."""
    return {
        "steps": 300 * 2502,
        "batch_size": 512,
        "learning_rate": 5e-4,
        "minimum_factor": 0.02,
        "weight_decay": 0.05,
        "warmup_steps": 5 * 2502,
    }


class LpvitSettings(Settings):
    """What is pruned; the defaults are the paper's for DeiT, but for `search` and `fisher`.

    `tuning` are TrainingSettings for afterwards (`foveal compress --tune STEPS` takes them as `training`,
    with the whole model as a teacher: half of the loss at temperature 1, as in the paper).
    """

    target: float = Field(0.5, gt=0, lt=1, description="share of the operations to keep")
    block: str = Field("32x32", description="outputs x inputs of a tile; the paper tries 16x16 to 64x32")
    ranking: Literal["taylor", "magnitude"] = "taylor"
    search: Literal["exact", "hull", "slope"] = Field("exact", description="'slope' is the paper's")
    second_order: bool = True
    fisher: Literal["mean", "batches"] = Field("batches", description="'mean' is the original's")
    damping: float = Field(1e-7, ge=0)
    smoothing: float = Field(0.1, ge=0, lt=1, description="0.9 for Swin-T, and for DeiT-B with power")
    power: float = Field(1.0, ge=0, description="of the term for kept tiles; 0 leaves it out")
    points: int = Field(100, ge=2)
    half_width: int = Field(4, ge=2, description="of the slopes' rule; 10 for Swin")
    least_kept: float = Field(0.05, ge=0, lt=1, description="share of each layer; 0.2 for Swin-T")
    tolerance: float = Field(0.02, gt=0)
    batch_size: int = Field(32, ge=1, description="of calibration, on about 2000 images in the paper")
    tuning: dict[str, Any] = Field(default_factory=_paper_tuning, description="of TrainingSettings")


class Lpvit(Recipe[LpvitSettings]):
    """From a trained transformer and a few images to the tiles of its weights that are kept."""

    card = Card(
        slug="lpvit",
        title="LPViT: block-sparse linear layers found after training, by a second-order curve and a budget",
        paper=Paper(
            citation="LPViT: Low-Power Semi-structured Pruning for Vision Transformers, ECCV 2024",
            year=2024,
            link="https://arxiv.org/abs/2407.02068",
        ),
        task="A trained vision transformer and some images without labels in; out come the tiles of its "
        "weights that are kept for a share of its operations, and a model that multiplies only these.",
        published=(
            "ImageNet top-1, whole to pruned: DeiT-S 79.8 to 80.69 at 50 % of the operations (UVC 78.82, "
            "S2ViTE 79.22 at 68 %, SCOP 77.5, uniform 77.17), tuned with a teacher.",
            "DeiT-B 81.8 to 80.81 at 50 % and 80.55 at 45 % (UVC 80.57 at 45.5 %, VTP 80.7 at 56.8 %).",
            "Swin-B 83.5 to 81.73 at 73 %; Swin-T 81.2 to 80.0 at 77 % and 79.24 at 71.1 % (X-Pruner 78.55).",
            "With attention in blocks and gated tokens too: DeiT-B 81.03 at 29 %; with the former alone, "
            "Swin-T 80.0 at 60.5 %.",
            "Up to 3.93 times as fast on dedicated hardware, 1.79 times on a GPU for DeiT-B, 1.4 times less "
            "power.",
        ),
        original="https://github.com/Akimoto-Cris/LPViT",
        licence="none seen (nothing of it is used)",
        faithfulness="Ranking, curves, smoothing, power and slopes are the paper's, with the second order in "
        "closed form, power of what survives, and ranking by Taylor in the final masks too. By default the "
        "Fisher matrix is the mean over batches of each batch's (the original's, fisher='mean', is of the "
        "mean gradient, which cancels) and the search is exact (the paper's bisection: search='slope'). "
        "Models are in evaluation mode while calibrated. Attention in blocks and gating of tokens are left "
        "out. A patch embedding is masked and stays one convolution. No power is measured: tiles are "
        "counted, times taken on a CPU. `foveal compress` moves the head's bias so that mean logits stay, "
        "unless centred=false.",
        built_from=(
            "compression.block_pruning",
            "compression.distortion",
            "compression.allocation",
            "compression.masks",
            "blocks.block_sparse_linear",
            "kernels.block_sparse",
        ),
    )
    Settings = LpvitSettings

    def build(self, settings: LpvitSettings) -> Callable[[nn.Module, Tensor], BlockPruning]:
        """A function from a model and images (N, C, H, W) to the tiles to keep.

        Its result masks a model (`found.masks(model).apply(model)`) and, after tuning,
        `compression.block_pruning.make_fast(model, found)` drops what is pruned.
        """
        from foveal.compression.block_pruning import prune_blocks

        options = settings.model_dump(exclude={"tuning", "target"})

        def prune(model: nn.Module, images: Tensor) -> BlockPruning:
            return prune_blocks(model, images, settings.target, **options)

        return prune

    def evidence(self, scale: Scale) -> Iterable[Evidence]:
        """See `foveal.recipes._lpvit_evidence`."""
        from foveal.recipes._lpvit_evidence import evidence

        return evidence(scale)


recipe = Lpvit()
