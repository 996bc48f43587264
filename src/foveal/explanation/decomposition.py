"""One image's features taken apart: what is in the image, what is of the place alone (DVT, arXiv 2401.02957).

The features y of a view at a cell p are F(a(p)) + G(p) + h(y): F what the image holds at the place a(p) in it
that the cell shows, G an artifact of the cell's place in the view, the same in all views, and h a small rest
that depends on both. A constant moved from G to F changes nothing of the sum: only differences have a
meaning, unless `centred` fixes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.blocks.hash_grid import HashGrid, NeuralField
from foveal.encoders.base import Encoder
from foveal.encoders.features import Features
from foveal.explanation.taps import as_maps, tapped
from foveal.objectives.feature_matching import feature_distance
from foveal.scans.crop_views import Corners, check_image, draw_crops
from foveal.settings import Settings
from foveal.training.schedules import learning_rate_factor
from foveal.training.settings import TrainingSettings


class DecompositionSettings(Settings):
    """Views, field and optimisation; the defaults are the paper's, `laptop()` are those for a CPU."""

    views: int = Field(768, description="random crops; the image itself is one more view")
    scale: tuple[float, float] = Field((0.1, 0.5), description="least and greatest share of the area")
    ratio: tuple[float, float] = Field((3 / 4, 4 / 3), description="least and greatest width over height")
    flip: float = Field(0.5, ge=0, le=1, description="probability of a mirrored crop")
    coordinates: Corners = Field(
        "centres", description="place of a cell; 'edges' spreads them from edge to edge, as published"
    )
    levels: int = Field(16, ge=1, description="resolutions of the field")
    level_features: int = Field(8, ge=1, description="numbers an entry of its tables holds")
    table_size: int = Field(2**20, description="most entries of a level, a power of two")
    base_resolution: int = 16
    max_resolution: int = 1024
    steps: int = Field(25_000, ge=2)
    batch_size: int = Field(2048, ge=1, description="feature vectors a step, of all views")
    learning_rate: float = Field(0.01, gt=0)
    minimum_factor: float = Field(0.1, ge=0, le=1, description="last learning rate over the peak")
    warmup_steps: int = Field(2500, ge=0)
    betas: tuple[float, float] = (0.9, 0.99)
    epsilon: float = 1e-15
    weight_decay: float = 1e-5
    freeze_at: float = Field(0.5, gt=0, le=1, description="share of the steps after which G stays, h learns")
    residual: float = Field(0.1, ge=0, description="weight of h's own error")
    sparsity: float = Field(0.02, ge=0, description="weight of h's mean size")
    standardise: bool = Field(
        False, description="fit to features over their deviation, so that few steps suffice at any scale"
    )
    centred: bool = Field(True, description="end with a G of mean 0 in each channel, its mean being F's")
    encoder_batch: int = Field(16, ge=1, description="views in the encoder at once")
    stored: Literal["float32", "float16"] = Field("float32", description="type in which views' features wait")
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.views < 2:
            raise ValueError(f"views {self.views}; allowed: 2 or more, as what they share tells them apart")
        if self.warmup_steps >= self.steps:
            raise ValueError(f"warmup_steps {self.warmup_steps} leave nothing of steps {self.steps}")
        return self

    @classmethod
    def laptop(cls, **changes: object) -> Self:
        """Settings for grids of 16 to 24 cells a side on a CPU: about half a minute an image."""
        small = {
            "views": 96, "levels": 8, "table_size": 2**14, "max_resolution": 64, "steps": 1500,
            "warmup_steps": 150, "standardise": True,
        }  # fmt: skip
        return cls.model_validate({**small, **changes})


@dataclass(frozen=True)
class Decomposition:
    """Features of one image, (H, W, D) each, and the course of the fit.

    Attributes:
        clean: F at the image's own cells.
        artifact: G.
        residual: h of the raw features.
        raw: the encoder's features of the image.
        losses: (steps,) of the fit, of features over their deviation with `standardise`.
    """

    clean: Tensor
    artifact: Tensor
    residual: Tensor
    raw: Tensor
    losses: Tensor

    @property
    def subtracted(self) -> Tensor:
        """The other way to clean features: y - G - h, sharper than `clean` and noisier."""
        return self.raw - self.artifact - self.residual


class SingleImageDenoiser(nn.Module):
    """F, G and h of one image.

    Args:
        dim: D.
        grid: (H, W) cells of a view.
        settings: of the field; seeded by `settings.seed`.
    """

    def __init__(self, dim: int, grid: tuple[int, int], settings: DecompositionSettings) -> None:
        super().__init__()
        hidden = max(1, dim // 4)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            table = HashGrid(
                levels=settings.levels,
                features=settings.level_features,
                table_size=settings.table_size,
                base_resolution=settings.base_resolution,
                max_resolution=settings.max_resolution,
            )
            self.field = NeuralField(dim, table)
            self.artifact = nn.Parameter(0.02 * torch.randn(grid[0] * grid[1], dim))
            self.rest = nn.Sequential(
                nn.Linear(dim, hidden),
                nn.ReLU(),
                nn.Linear(hidden, hidden),
                nn.ReLU(),
                nn.Linear(hidden, dim),
            )
        self.sparsity, self.residual = settings.sparsity, settings.residual

    def loss(self, features: Tensor, places: Tensor, cells: Tensor, *, late: bool) -> Tensor:
        """Of feature vectors.

        Args:
            features: (n, D) raw.
            places: (n, 2) in the image.
            cells: (n,) in the view, row-major.
            late: in the second phase G stays and h learns.
        """
        artifact = F.embedding(cells, self.artifact.detach() if late else self.artifact)
        shared = self.field(places) + artifact
        if not late:
            return feature_distance(shared, features)
        rest = self.rest(features)
        return (
            feature_distance(shared + rest.detach(), features)
            + self.residual * F.mse_loss(rest, features - shared.detach())
            + self.sparsity * rest.abs().mean()
        )


def decompose(
    encoder: Encoder,
    image: Tensor,
    settings: DecompositionSettings | None = None,
    *,
    layer: str | None = None,
    prefix_tokens: int | None = None,
) -> Decomposition:
    """Take an image's patch features apart by what many crops of it have in common.

    Args:
        encoder: any with patch tokens on a grid; used in evaluation mode, without gradients.
        image: (C, H, W) float, as the encoder takes it, at the size at which it works.
        settings: the paper's where None, which want a GPU; see `DecompositionSettings.laptop`.
        layer: take a named layer's output instead of the encoder's patch tokens, which come after the last
            normalisation; keep to one of both in all that is compared.
        prefix_tokens: of that layer, see `taps.as_maps`.

    Raises:
        ValueError: an image whose sides the encoder's patches do not divide, or no grid of patches.

    Example:
        >>> encoder = create_encoder("timm/vit_small_patch14_dinov2", pretrained=True)
        >>> found = decompose(encoder, image, DecompositionSettings.laptop())
        >>> found.clean, found.artifact, found.residual  # (H, W, D) each
    """
    settings = settings or DecompositionSettings()
    size = check_image(image, encoder.patch_size)
    boxes = draw_crops(
        size,
        settings.views,
        scale=settings.scale,
        ratio=settings.ratio,
        flip=settings.flip,
        seed=settings.seed,
    )
    kept = []
    for start in range(0, len(boxes), settings.encoder_batch):
        views = boxes.take(image, slice(start, start + settings.encoder_batch))
        features = dense_features(encoder, views, layer=layer, prefix_tokens=prefix_tokens)
        kept.append(features.to(getattr(torch, settings.stored)))
    stacked = torch.cat(kept)
    places = boxes.coordinates(stacked.shape[1:3], at=settings.coordinates)
    return fit_decomposition(stacked, places.to(stacked.device), settings)


def fit_decomposition(
    features: Tensor, coordinates: Tensor, settings: DecompositionSettings | None = None
) -> Decomposition:
    """Fit F, G and h to features of views, the image itself the last of them.

    Args:
        features: (V, H, W, D) raw.
        coordinates: (V, H, W, 2) in [0, 1], (x, y) of each cell in the image.
        settings: the paper's where None.

    Raises:
        ValueError: shapes that do not fit each other, fewer than two views, coordinates outside [0, 1], or
            features that are not finite.
    """
    settings = settings or DecompositionSettings()
    if features.ndim != 4 or coordinates.shape != (*features.shape[:3], 2) or len(features) < 2:
        raise ValueError(
            f"features {tuple(features.shape)} at coordinates {tuple(coordinates.shape)}; allowed: "
            "(V, H, W, D) and (V, H, W, 2) of two views or more"
        )
    if not bool(torch.isfinite(features).all()):
        raise ValueError("features hold NaN or infinity; in fp16, store them as float32")
    low, high = torch.aminmax(coordinates)
    if not (low >= 0 and high <= 1):
        raise ValueError(f"coordinates from {low:.4g} to {high:.4g}; allowed: 0 to 1, shares of the image")
    height, width, dim = features.shape[1:]
    model = SingleImageDenoiser(dim, (height, width), settings).to(features.device)
    # Adam moves a weight by at most its rate a step, so that large features would take more steps.
    scale = features.float().std() if settings.standardise else features.new_ones((), dtype=torch.float32)
    scaled = features / scale.to(features.dtype) if settings.standardise else features
    losses = _optimise(model, scaled.flatten(0, 2), coordinates.flatten(0, 2), height * width, settings)
    raw = scaled[-1].float()
    with torch.no_grad():
        clean, rest = model.field(coordinates[-1]), model.rest(raw)
        artifact = model.artifact.detach().view(height, width, dim).clone()
        if settings.centred:
            mean = artifact.mean(dim=(0, 1))
            clean, artifact = clean + mean, artifact - mean
        if settings.freeze_at == 1:  # h never learned
            rest = torch.zeros_like(raw)
    return Decomposition(clean * scale, artifact * scale, rest * scale, features[-1].float(), losses)


def dense_features(
    encoder: Encoder, images: Tensor, *, layer: str | None = None, prefix_tokens: int | None = None
) -> Tensor:
    """(B, H, W, D) patch features in evaluation mode, without gradients.

    Args:
        encoder: any with patch tokens on a grid of two axes.
        images: (B, C, H, W), as it takes them.
        layer: of whose output to take, instead of the encoder's patch tokens.
        prefix_tokens: tokens of that layer before the patches; None reads 0 or 1 off.

    Raises:
        ValueError: a layer that is not there, or no grid of two axes.
    """
    was_training = encoder.training
    encoder.eval()
    try:
        with torch.no_grad(), tapped(encoder, [layer] if layer else []) as kept:
            found: Features = encoder(images)
    finally:
        encoder.train(was_training)
    if len(found.grid) != 2:
        raise ValueError(f"{type(encoder).__name__} has a grid of {found.grid}; two axes are wanted")
    if layer:
        return as_maps(kept[layer], images, prefix_tokens=prefix_tokens).movedim(1, -1).float()
    return found.patches.unflatten(1, found.grid).float()


def average_views(features: Tensor, coordinates: Tensor, grid: Sequence[int]) -> Tensor:
    """The plain way: the mean of all views' features in each cell of the image, (h, w, D).

    Args:
        features: (V, H, W, D).
        coordinates: (V, H, W, 2), in [0, 1].
        grid: (h, w); a cell that no view shows is NaN.
    """
    height, width = grid
    column = (coordinates[..., 0] * width).long().clamp_max(width - 1)
    row = (coordinates[..., 1] * height).long().clamp_max(height - 1)
    cells = (row * width + column).flatten()
    sums = features.new_zeros(height * width, features.shape[-1]).index_add_(0, cells, features.flatten(0, 2))
    return (sums / cells.bincount(minlength=height * width)[:, None]).view(height, width, -1)


def _optimise(
    model: SingleImageDenoiser, features: Tensor, places: Tensor, cells: int, settings: DecompositionSettings
) -> Tensor:
    """Adam over random batches of feature vectors; the losses (steps,)."""
    optimizer = torch.optim.Adam(
        model.parameters(),
        lr=settings.learning_rate,
        betas=settings.betas,
        eps=settings.epsilon,
        weight_decay=settings.weight_decay,
        fused=True,
    )
    schedule = TrainingSettings(
        steps=settings.steps, warmup_steps=settings.warmup_steps, minimum_factor=settings.minimum_factor
    )
    generator = torch.Generator().manual_seed(settings.seed)
    freeze = round(settings.freeze_at * settings.steps)
    losses = []
    with torch.enable_grad():
        for step in range(settings.steps):
            optimizer.param_groups[0]["lr"] = settings.learning_rate * learning_rate_factor(schedule, step)
            chosen = torch.randint(len(features), (settings.batch_size,), generator=generator)
            chosen = chosen.to(features.device)
            loss = model.loss(
                features.index_select(0, chosen).float(),
                places.index_select(0, chosen),
                chosen % cells,
                late=step >= freeze,
            )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
    return torch.stack(losses).cpu()
