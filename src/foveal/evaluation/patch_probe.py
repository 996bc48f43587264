"""Patch-Seg: what a frozen encoder's patch tokens say of their own patch (from arXiv 2410.11087).

Each patch gets the classes that occur in it; a small head on frozen tokens tells them. Recall, precision, F1
and accuracy are means over classes, so that rare ones count as much as the ground.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

import torch
from einops import rearrange
from pydantic import Field
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.functional.classification import multilabel_stat_scores

from foveal.objectives.base import Batch, Objective
from foveal.settings import Settings
from foveal.training import TrainingSettings, fit
from foveal.training.randomness import without_touching_randomness

LabelKind = Literal["union", "majority", "global-union"]
HeadKind = Literal["linear", "mlp", "transformer"]
Seen = Literal["all", "class", "latent"]


def _paper_training() -> dict[str, Any]:
    """5 epochs of COCO (118 000 images) in batches of 32."""
    return {
        "steps": 18_400,
        "batch_size": 32,
        "learning_rate": 1e-3,
        "minimum_factor": 0.1,
        "warmup_steps": 500,
        "weight_decay": 0.01,
        "tensorboard": False,
    }


class PatchProbeSettings(Settings):
    """Labels, head and training of a probe; the defaults are the paper's."""

    labels: LabelKind = Field(
        "union", description="classes of a patch, its largest class, or those of the image"
    )
    head: HeadKind = "transformer"
    seen: Seen = Field(
        "all",
        description="what the head sees: all tokens; the class token in every place; or learned queries in "
        "the places of the patches, beside the prefix tokens",
    )
    depth: int = Field(2, ge=1, description="blocks of a transformer head")
    hidden: int = Field(1024, ge=1, description="of an MLP head")
    layer_scale: float = Field(0.01, gt=0, description="first value; of a transformer head")
    training: dict[str, Any] = Field(default_factory=_paper_training, description="of TrainingSettings")


def patch_labels(
    annotation: Tensor, patch_size: int | tuple[int, int], classes: int, *, kind: LabelKind = "union"
) -> Tensor:
    """What is in each patch, from a class for each pixel.

    Args:
        annotation: (B, H, W) int64 classes; -1 is not told. Pixels beyond the last whole patch are left out.
        patch_size: pixels, or (height, width) in pixels.
        classes: C.
        kind: "union" of the classes in a patch, "global-union" of those in the image, or the "majority".

    Returns:
        (B, n, C) float of 0 and 1 for "union", (B, C) for "global-union"; (B, n) int64 for "majority", the
        lower class of two as large, -1 where nothing is told.

    Raises:
        ValueError: an annotation of another shape or with classes that are not there.
    """
    high, wide = (patch_size, patch_size) if isinstance(patch_size, int) else patch_size
    if annotation.ndim != 3 or annotation.shape[1] < high or annotation.shape[2] < wide:
        raise ValueError(
            f"annotation of shape {tuple(annotation.shape)}; allowed: (B, H, W), at least {high} x {wide} px"
        )
    low, top = int(annotation.min()), int(annotation.max())
    if low < -1 or top >= classes:
        raise ValueError(f"annotation holds classes {low} to {top}; allowed: -1 (not told) to {classes - 1}")
    rows, columns = annotation.shape[1] // high, annotation.shape[2] // wide
    pixels = rearrange(
        annotation[:, : rows * high, : columns * wide], "b (h p) (w q) -> b (h w) (p q)", p=high, q=wide
    )
    told = (pixels >= 0).float()
    counts = torch.zeros(*pixels.shape[:2], classes, device=annotation.device)
    counts.scatter_add_(2, pixels.clamp_min(0), told)
    if kind == "majority":
        return counts.argmax(dim=2).masked_fill(counts.sum(dim=2) == 0, -1)
    if kind == "global-union":
        return (counts.sum(dim=1) > 0).float()
    return (counts > 0).float()


def centre_square(images: Tensor, *, size: int, classes: bool = False) -> Tensor:
    """The largest square in the middle of (B, C, H, W), resized; maps of `classes` keep their values."""
    side = min(images.shape[-2:])
    top, left = (images.shape[-2] - side) // 2, (images.shape[-1] - side) // 2
    square = images[..., top : top + side, left : left + side]
    if classes:
        return F.interpolate(square.double(), size=(size, size), mode="nearest-exact").to(images.dtype)
    return F.interpolate(square, size=(size, size), mode="bicubic", antialias=True).clamp(0, 1)


class PatchHead(nn.Module):
    """Frozen tokens (B, P + n, D) to logits of each patch (B, n, C), or of the image (B, C) where `pooled`.

    Args:
        dim: D.
        classes: C.
        patches: n.
        prefix_tokens: P.
        settings: kind of head, and what it sees.

    Raises:
        ValueError: the class token alone is to be seen, and there is none.
    """

    def __init__(
        self, dim: int, classes: int, *, patches: int, prefix_tokens: int, settings: PatchProbeSettings
    ) -> None:
        super().__init__()
        self.patches, self.prefix_tokens, self.settings = patches, prefix_tokens, settings
        self.pooled = settings.labels == "global-union"
        if settings.seen != "all" and not prefix_tokens:
            raise ValueError(
                f"seen={settings.seen!r} predicts from class and register tokens, of which the encoder has "
                "none"
            )
        if settings.seen == "latent":
            self.queries = nn.Parameter(0.02 * torch.randn(1, patches, dim))
        self.body: nn.Module = nn.Identity()
        if settings.head == "transformer":
            self.positions = nn.Parameter(0.02 * torch.randn(1, prefix_tokens + patches, dim))
            heads = max(1, dim // 64)
            while dim % heads:
                heads -= 1
            self.body = nn.Sequential(
                *(
                    Block(dim, heads, qkv_bias=True, init_values=settings.layer_scale)
                    for _ in range(settings.depth)
                ),
                nn.LayerNorm(dim),
            )
        elif settings.head == "mlp":
            self.body = nn.Sequential(nn.Linear(dim, settings.hidden), nn.GELU())
        self.last = nn.Linear(settings.hidden if settings.head == "mlp" else dim, classes)

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that an optimiser leaves undecayed (timm's convention)."""
        return {"positions", "queries"}

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits.

        Raises:
            ValueError: another number of tokens.
        """
        if tokens.shape[1] != self.prefix_tokens + self.patches:
            raise ValueError(
                f"{tokens.shape[1]} tokens; {self.prefix_tokens} prefix tokens and {self.patches} patches "
                "are wanted"
            )
        if self.settings.seen != "all":
            prefix = tokens[:, : self.prefix_tokens]
            if self.settings.seen == "class":
                places = prefix[:, :1].expand(-1, self.patches, -1)
            else:
                places = self.queries.expand(len(tokens), -1, -1)
            tokens = torch.cat([prefix, places], dim=1)
        if self.settings.head == "transformer":
            tokens = tokens + self.positions
        hidden = self.body(tokens)[:, self.prefix_tokens :]
        return cast(Tensor, self.last(hidden.mean(dim=1) if self.pooled else hidden))


class PatchProbe(Objective):
    """A head learns what is in each patch: binary cross-entropy, or cross-entropy of the majority.

    Batch keys: `tokens` (B, P + n, D), or `images` where `tokens_of` is given; `labels` as of `patch_labels`.

    Args:
        head: is trained.
        tokens_of: images to frozen tokens, for data that is too large to keep its tokens.
    """

    def __init__(self, head: PatchHead, *, tokens_of: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.head, self.tokens_of = head, tokens_of

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The mean `loss`."""
        if "tokens" in batch:
            tokens = batch["tokens"]
        else:
            assert self.tokens_of is not None
            with torch.no_grad():
                tokens = self.tokens_of(batch["images"])
        logits, labels = self.head(tokens).float(), batch["labels"]
        if self.head.settings.labels == "majority":
            total = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-1, reduction="sum")
            return {"loss": total / (labels >= 0).sum().clamp_min(1)}
        return {"loss": F.binary_cross_entropy_with_logits(logits, labels)}


class PatchScores(NamedTuple):
    """Means over the classes that occur, in [0, 1]; accuracy over all of yes and no."""

    recall: float
    precision: float
    f1: float
    accuracy: float


def patch_scores(logits: Tensor, labels: Tensor) -> PatchScores:
    """Macro scores of logits (..., C), a class called where its sigmoid is above 1/2, or it is the largest.

    Args:
        logits: (B, n, C) or (B, C).
        labels: of the same shape, of 0 and 1; or (B, n) int64 classes, -1 left out.

    Raises:
        ValueError: shapes that do not fit, or no class that occurs.
    """
    classes = logits.shape[-1]
    called, truth = (
        logits.reshape(-1, classes) > 0,
        labels.reshape(-1, classes) if labels.shape == logits.shape else None,
    )
    if truth is None:
        if labels.shape != logits.shape[:-1]:
            raise ValueError(f"logits {tuple(logits.shape)}, labels {tuple(labels.shape)}; they do not fit")
        told = labels.flatten() >= 0
        truth = F.one_hot(labels.flatten()[told], classes)
        called = F.one_hot(logits.reshape(-1, classes)[told].argmax(dim=1), classes)
    counts = multilabel_stat_scores(called.int(), truth.int(), num_labels=classes, average=None).double()
    hits, false, right, missed = counts[counts[:, 4] > 0, :4].T
    if not len(hits):
        raise ValueError("no class occurs in the labels; there is nothing to score")
    return PatchScores(
        recall=float((hits / (hits + missed)).mean()),
        precision=float((hits / (hits + false).clamp_min(1)).mean()),
        f1=float((2 * hits / (2 * hits + false + missed)).mean()),
        accuracy=float(((hits + right) / (hits + false + right + missed)).mean()),
    )


@dataclass(frozen=True)
class ProbeSamples:
    """Frozen tokens with their labels, for the training loop.

    Attributes:
        tokens: (N, P + n, D).
        labels: as of `patch_labels`.
    """

    tokens: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.tokens)

    def sample(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        """One image."""
        return {"tokens": self.tokens[index], "labels": self.labels[index]}


@torch.inference_mode()
def frozen_tokens(tokens_of: Callable[[Tensor], Tensor], images: Tensor, *, batch: int = 64) -> Tensor:
    """Tokens of all images, (N, P + n, D) on the CPU, so many at a time."""
    return torch.cat([tokens_of(part).float().cpu() for part in images.split(batch)])


def fit_patch_probe(
    samples: ProbeSamples, classes: int, *, prefix_tokens: int, settings: PatchProbeSettings | None = None
) -> PatchHead:
    """Train a head on frozen tokens; the same seed gives the same head.

    Args:
        samples: tokens with labels of the kind that the settings name.
        classes: C.
        prefix_tokens: P, how many of the tokens come before the patches.
        settings: the paper's where None.

    Returns:
        The head, in evaluation mode.

    Raises:
        ValueError: labels of another shape than the settings want.

    Example:
        >>> tokens_of = partial(vit_tokens, encoder)
        >>> labels = patch_labels(annotation, encoder.patch_size, 21)
        >>> samples = ProbeSamples(frozen_tokens(tokens_of, images), labels)
        >>> head = fit_patch_probe(samples, 21, prefix_tokens=1)
        >>> patch_scores(head(frozen_tokens(tokens_of, test_images)), test_labels).recall
    """
    settings = settings or PatchProbeSettings()
    patches = samples.tokens.shape[1] - prefix_tokens
    wanted = {
        "union": (len(samples), patches, classes),
        "majority": (len(samples), patches),
        "global-union": (len(samples), classes),
    }[settings.labels]
    if tuple(samples.labels.shape) != wanted:
        raise ValueError(
            f"labels of shape {tuple(samples.labels.shape)}; {settings.labels} labels of {len(samples)} "
            f"images, {patches} patches and {classes} classes are {wanted}"
        )
    training = TrainingSettings.model_validate(settings.training)
    with without_touching_randomness():
        torch.manual_seed(training.seed)
        head = PatchHead(
            samples.tokens.shape[2], classes, patches=patches, prefix_tokens=prefix_tokens, settings=settings
        )
        fit(PatchProbe(head), samples, training, progress=False)
    return head.eval()
