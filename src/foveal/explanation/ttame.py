"""T-TAME: a trained head that gives maps of all classes in the forward pass itself (arXiv 2403.04523)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.explanation.cam import enlarged, unit_range
from foveal.explanation.methods import Question, register_method
from foveal.explanation.taps import as_maps, find_layer, tapped
from foveal.models.pretrained import PretrainedModel
from foveal.objectives.base import Batch, Objective
from foveal.settings import Settings

ClassToken = Literal["multiply", "drop"]
Masking = Literal["standardised", "raw"]
_CONVS = {2: (nn.Conv2d, nn.BatchNorm2d, "bilinear"), 3: (nn.Conv3d, nn.BatchNorm3d, "trilinear")}


class MapHeadConfig(Settings):
    """Everything that rebuilds a `MapHead`, but for the model that it looks into."""

    layers: tuple[str, ...] = Field(min_length=1, description="names of the model's layers, 1 to 3 of them")
    channels: tuple[int, ...] = Field(min_length=1, description="of each layer")
    classes: int = Field(ge=1, description="maps")
    dimensions: Literal[2, 3] = 2
    class_token: ClassToken = Field(
        "multiply", description="multiply patches by the layer's class token, or drop it; of tokens"
    )
    prefix_tokens: int | None = Field(None, description="tokens before the patches; None reads 0 or 1 off")
    skip: bool = Field(True, description="add the layer's maps to their branch")
    norm: bool = Field(True, description="normalisation in each branch")
    activation: Literal["relu", "sigmoid"] = "relu"
    branches: Literal["convolution", "attention"] = Field(
        "convolution", description="attention: of places to places, layer norms, GELU; it loses in the paper"
    )
    heads: int = Field(12, ge=1, description="of attention; divides the channels of every layer")
    most_cells: int = Field(56, ge=1, description="along a side of the maps")


class PlaceAttention(nn.Module):
    """Self-attention among the places of maps (B, K, *grid).

    Raises:
        ValueError: heads that do not divide the channels.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"{heads} heads do not divide {channels} channels; choose heads that do")
        self.attention = nn.MultiheadAttention(channels, heads, batch_first=True)

    def forward(self, maps: Tensor) -> Tensor:
        """Maps of the same shape."""
        tokens = maps.flatten(2).mT
        return self.attention(tokens, tokens, tokens, need_weights=False)[0].mT.view_as(maps)


class PlaceNorm(nn.LayerNorm):
    """Layer normalisation over the channels of maps (B, K, *grid)."""

    def forward(self, maps: Tensor) -> Tensor:
        """Maps of the same shape."""
        return super().forward(maps.movedim(1, -1)).movedim(-1, 1)


class MapHead(PretrainedModel):
    """Maps of layers to a map for each class: logits (B, classes, *grid).

    Each layer passes ReLU(norm(conv1(F)) + F); enlarged to the first layer's grid and joined, they pass one
    more 1 x 1 convolution. With `branches="attention"` a layer passes GELU(norm(attention(F)) + F), and
    attention of the joined maps comes before the last convolution.

    Raises:
        ValueError: layers and channels that differ in number, heads that do not divide the channels.
    """

    Config = MapHeadConfig

    def __init__(self, config: MapHeadConfig) -> None:
        super().__init__()
        self.config = config
        if len(config.layers) != len(config.channels):
            raise ValueError(
                f"{len(config.layers)} layers, {len(config.channels)} channels; give one of each"
            )
        conv, norm, self.mode = _CONVS[config.dimensions]
        attends = config.branches == "attention"
        self.convs = nn.ModuleList(
            PlaceAttention(width, config.heads) if attends else conv(width, width, 1)
            for width in config.channels
        )
        chosen = (PlaceNorm if attends else norm) if config.norm else nn.Identity
        self.norms = nn.ModuleList(chosen(width) for width in config.channels)
        self.attention = PlaceAttention(sum(config.channels), config.heads) if attends else None
        self.fuse = conv(sum(config.channels), config.classes, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Logits of the maps; their sigmoid is the mask of the training."""
        size = [min(side, self.config.most_cells) for side in features[0].shape[2:]]
        whole = F.gelu if self.attention is not None else F.relu
        activation = whole if self.config.activation == "relu" else torch.sigmoid
        branches = []
        for x, conv, norm in zip(features, self.convs, self.norms, strict=True):
            y = norm(conv(x))
            branches.append(activation(y + x if self.config.skip else y))
        if self.attention is not None:
            return self.fuse(self.attention(torch.cat([self._resized(y, size) for y in branches], dim=1)))
        # A 1 x 1 convolution and a linear resizing may change places: there are fewer classes than channels.
        weights = self.fuse.weight.flatten(1).split(self.config.channels, dim=1)
        maps = torch.stack(
            [
                self._resized(torch.einsum("bk...,ck->bc...", y, weight), size)
                for y, weight in zip(branches, weights, strict=True)
            ]
        ).sum(dim=0)
        assert self.fuse.bias is not None
        return maps + self.fuse.bias.view(-1, *[1] * len(size))

    def _resized(self, maps: Tensor, size: list[int]) -> Tensor:
        if list(maps.shape[2:]) == size:
            return maps
        return F.interpolate(maps, size=size, mode=self.mode, align_corners=False)


class TTame(nn.Module):
    """A frozen model with a head on some of its layers: images to logits of maps (B, classes, *grid).

    Args:
        model: images to logits (B, classes); it is frozen, and stays in evaluation mode in training.
        head: of the layers that its configuration names.

    Raises:
        ValueError: a layer that the model has not.
    """

    def __init__(self, model: nn.Module, head: MapHead) -> None:
        super().__init__()
        for name in head.config.layers:
            find_layer(model, name)
        self.model, self.head = model.eval().requires_grad_(False), head

    @classmethod
    def untrained(
        cls, model: nn.Module, images: Tensor, layers: Sequence[str], *, seed: int = 0, **settings: Any
    ) -> Self:
        """A head for a model, its channels and classes found by a pass of some images.

        Args:
            model: in evaluation mode.
            images: one or more, as the model takes them.
            layers: 1 to 3 names of layers of maps or tokens; the first one's grid is that of the maps.
            seed: of the weights.
            **settings: of `MapHeadConfig`.

        Raises:
            ValueError: a layer that is not there, or tokens that fit no grid; tell `prefix_tokens`.
        """
        with torch.no_grad(), tapped(model.eval(), layers) as kept:
            outputs = model(images)
        config = MapHeadConfig(
            layers=tuple(layers),
            channels=tuple(
                as_maps(kept[name], images, prefix_tokens=settings.get("prefix_tokens")).shape[1]
                for name in layers
            ),
            classes=outputs.shape[1],
            dimensions=images.ndim - 2,  # type: ignore[arg-type]
            **settings,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(model, MapHead(config))

    def train(self, mode: bool = True) -> Self:
        """Switch the head alone: the model's normalisations and dropout stay as they are used."""
        super().train(mode)
        self.model.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Logits of the maps, one forward pass of the model."""
        return self.with_outputs(images)[0]

    def with_outputs(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the maps and the model's own outputs, by one pass."""
        config = self.head.config
        with torch.no_grad(), tapped(self.model, config.layers) as kept:
            outputs = self.model(images)
        features = [self._maps(kept[name], images) for name in config.layers]
        return self.head(features), outputs

    def explain(self, images: Tensor, weights: Tensor) -> Tensor:
        """(B, *sides) in [0, 1]: the map of the class that weighs (B, classes), scaled image by image."""
        with torch.no_grad():
            maps = torch.einsum("bk,bk...->b...", weights, self(images))
        return unit_range(enlarged(maps, images))

    def _maps(self, output: Tensor, images: Tensor) -> Tensor:
        config = self.head.config
        maps = as_maps(output, images, prefix_tokens=config.prefix_tokens)
        if output.ndim == 3 and config.class_token == "multiply":
            prefix = output.shape[1] - maps[0, 0].numel()
            if prefix:
                maps = maps * output[:, 0].view(*maps.shape[:2], *[1] * (maps.ndim - 2))
        return maps


class TTameObjective(Objective):
    """The model's own class must be told from what the map leaves of the image, the map small and smooth.

    loss = 1.5 CE + 2 mean((a + 0.0005)^0.3) + 0.01 TV(a), a the sigmoid of the map of the model's class.

    Args:
        explained: the frozen model with its head.
        masking: "standardised" takes what is masked to the mean of the model's `mean` (all models that
            standardise their images themselves; 0 for the others), "raw" to 0.
        classification, area, variation: weights of the three terms.
        power: of the area.
        regularise: "batch" takes area and smoothness of every image's maps of all classes of the batch, as
            the released code does; "own" of its own class alone.
        target: from the model's outputs to a class (B,); the largest by default.

    Batch keys: `images`, as the model takes them.
    """

    def __init__(
        self,
        explained: TTame,
        *,
        masking: Masking = "standardised",
        classification: float = 1.5,
        area: float = 2.0,
        variation: float = 0.01,
        power: float = 0.3,
        regularise: Literal["batch", "own"] = "batch",
        target: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        if masking not in ("standardised", "raw") or regularise not in ("batch", "own"):
            raise ValueError(
                f"masking {masking!r}, regularise {regularise!r}; allowed: standardised or raw, batch or own"
            )
        self.explained, self.masking, self.regularise, self.power = explained, masking, regularise, power
        self.weights = {"classification": classification, "area": area, "variation": variation}
        self.target = target or (lambda outputs: outputs.argmax(dim=1))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Losses `classification`, `area`, `variation`, and their weighted sum `loss`."""
        images = batch["images"]
        maps, outputs = self.explained.with_outputs(images)
        classes = self.target(outputs)
        a = maps.sigmoid()
        own = a[torch.arange(len(a), device=a.device), classes]
        masked = self.explained.model(self.masked(images, own))
        kept, times = own.unsqueeze(1), a.new_ones(1)
        if self.regularise == "batch":  # the mean over a[:, classes], each class of the batch taken once
            present, counts = classes.unique(return_counts=True)
            kept, times = a[:, present], counts.to(a)
        areas = (kept + 0.0005).pow(self.power).flatten(2).mean(dim=(0, 2))
        weighted = kept * times.sqrt().view(-1, *[1] * (a.ndim - 2))
        losses = {
            "classification": F.cross_entropy(masked, classes),
            "area": areas @ times / times.sum(),
            "variation": total_variation(weighted) / len(images),
        }
        losses["loss"] = sum(  # type: ignore[assignment]
            (weight * losses[name] for name, weight in self.weights.items()),
            start=torch.zeros((), device=a.device),
        )
        return losses

    def masked(self, images: Tensor, maps: Tensor) -> Tensor:
        """Images as far as maps (B, *grid) in [0, 1] let them through."""
        a = enlarged(maps, images).unsqueeze(1)
        mean = getattr(self.explained.model, "mean", None)
        if self.masking == "standardised" and isinstance(mean, Tensor):
            return mean + a * (images - mean)
        return a * images


class MirroredImages:
    """Training samples of images (N, C, ...) alone, as the model takes them, half of them mirrored."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def sample(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        """One image, its last axis turned round in half of the cases."""
        image = self.images[index]
        return {"images": image.flip(-1) if torch.rand((), generator=generator) < 0.5 else image}


def total_variation(maps: Tensor, *, border: float = 0.3) -> Tensor:
    """Half the sum of squared steps of maps (B, N, *grid) along each axis and, weighted, at their borders."""
    total = maps.new_zeros(())
    for axis in range(2, maps.ndim):
        total = total + maps.diff(dim=axis).square().sum()
        edges = maps.select(axis, 0), maps.select(axis, -1)
        total = total + border * sum(edge.square().sum() for edge in edges)
    return total / 2


@register_method("t-tame", "trained", signed=False)
def t_tame(asked: Question, *, trained: TTame | None = None) -> Tensor:
    """The map of a trained head, from the model's own forward pass (T-TAME, arXiv 2403.04523).

    `trained` is the head on this very model: `TTame(model, MapHead.from_pretrained(folder))`.
    """
    if trained is None:
        raise ValueError("t-tame needs trained=TTame(model, head); see foveal.explanation.ttame")
    if trained.model is not asked.model:
        raise ValueError(
            "the trained head belongs to another model; build TTame on the model to be explained"
        )
    if asked.weights.ndim != 2:
        raise ValueError("t-tame explains classifiers; a segmenter has a map of each class already")
    return trained.explain(asked.images, asked.weights)
