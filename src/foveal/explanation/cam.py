"""Maps of a layer: its channels, weighted by what they do for the score, enlarged to the image."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from foveal.explanation.methods import Question, register_method
from foveal.explanation.taps import as_maps, tapped_maps
from foveal.models.classifier import Classifier

_LINEAR = {4: "bilinear", 5: "trilinear"}
Weighting = Callable[[Tensor, Tensor], Tensor]
"""Maps (B, D, ...) and the score's gradients there to weights that broadcast to them."""


@register_method("cam", "layer map")
def cam(asked: Question) -> Tensor:
    """Class activation map, exact for a pooled linear head; Grad-CAM of the last maps for all else.

    A `Classifier` pools the mean of its encoder's patch tokens into a linear head, so its map
    CAM = sum_k W[c, k] F_k needs no gradient: its mean over the grid plus the bias is the logit (Zhou et
    al., arXiv 1512.04150). An encoder that pools otherwise gets Grad-CAM (Selvaraju et al., arXiv
    1610.02391) on its patch tokens: the tokens weighted by the gradient of the logit averaged over the
    grid, positive part. Where the pooled vector is a token of its own, which the last patch tokens do not
    reach, it is gradient times input (Shrikumar et al., arXiv 1605.01713): standardised pixels times the
    logit's gradient, summed over each cell of the grid, positive part.
    """
    if isinstance(asked.model, Classifier):
        return enlarged(_token_relevance(asked.model, asked.images, asked.weights), asked.images)
    return grad_cam(asked)


@register_method("grad-cam", "layer map", signed=False)
def grad_cam(
    asked: Question,
    *,
    layer: str | None = None,
    prefix_tokens: int | None = None,
    grid: Sequence[int] | None = None,
) -> Tensor:
    """Maps weighted by the mean of the score's gradient over each, positive part (arXiv 1610.02391).

    `layer` is the last one with maps unless it is named; of tokens, `prefix_tokens` have no place and the
    others lie on `grid`.
    """
    return _weighted(
        asked, lambda maps, g: g.mean(tuple(range(2, g.ndim)), keepdim=True), layer, prefix_tokens, grid
    )


@register_method("grad-cam++", "layer map", signed=False)
def grad_cam_plus_plus(
    asked: Question,
    *,
    layer: str | None = None,
    prefix_tokens: int | None = None,
    grid: Sequence[int] | None = None,
) -> Tensor:
    """Grad-CAM with gradients weighted so that several objects count alike (arXiv 1710.11063)."""

    def weights(maps: Tensor, g: Tensor) -> Tensor:
        places = tuple(range(2, g.ndim))
        below = 2 * g.square() + maps.sum(places, keepdim=True) * g.pow(3)
        alpha = torch.where(g != 0, g.square() / torch.where(below == 0, torch.ones_like(below), below), 0.0)
        return (alpha * g.relu()).sum(places, keepdim=True)

    return _weighted(asked, weights, layer, prefix_tokens, grid)


@register_method("hires-cam", "layer map", signed=False)
def hires_cam(
    asked: Question,
    *,
    layer: str | None = None,
    prefix_tokens: int | None = None,
    grid: Sequence[int] | None = None,
) -> Tensor:
    """Maps times the score's gradient at each place, positive part of the sum (arXiv 2011.08891)."""
    return _weighted(asked, lambda maps, g: g, layer, prefix_tokens, grid)


@register_method("layer-cam", "layer map", signed=False)
def layer_cam(
    asked: Question,
    *,
    layer: str | None = None,
    prefix_tokens: int | None = None,
    grid: Sequence[int] | None = None,
) -> Tensor:
    """Maps times the positive part of the score's gradient at each place (LayerCAM, TIP 2021)."""
    return _weighted(asked, lambda maps, g: g.relu(), layer, prefix_tokens, grid)


@register_method("score-cam", "layer map", signed=False)
def score_cam(
    asked: Question,
    *,
    layer: str | None = None,
    prefix_tokens: int | None = None,
    grid: Sequence[int] | None = None,
    batch_size: int = 32,
    most_maps: int | None = None,
) -> Tensor:
    """Maps weighted by the score of the image seen through each (arXiv 1910.01279); no gradient.

    Each map, scaled to [0, 1], masks the image; weights are the softmax over maps of the scores' gain over an
    image of zeros. `most_maps` takes only the maps that vary most.
    """
    with torch.no_grad():
        with tapped_maps(asked.model, asked.images, layer) as kept:
            asked.model(asked.images)
        maps = as_maps(kept(), asked.images, prefix_tokens=prefix_tokens, grid=grid)
        if most_maps is not None and most_maps < maps.shape[1]:
            best = maps.flatten(2).var(dim=2).topk(most_maps, dim=1).indices
            maps = maps.gather(
                1, best.view(*best.shape, *[1] * (maps.ndim - 2)).expand(-1, -1, *maps.shape[2:])
            )
        nothing = asked.score(torch.zeros_like(asked.images))
        results = []
        for at in range(len(maps)):
            masks = unit_range(enlarged(maps[at], asked.images))
            scores = [
                asked.score(asked.images[at] * part.unsqueeze(1), asked.weights[at : at + 1])
                for part in masks.split(batch_size)
            ]
            share = (torch.cat(scores) - nothing[at]).softmax(dim=0)
            results.append(torch.einsum("d,d...->...", share, maps[at]).relu())
    return enlarged(torch.stack(results), asked.images)


def token_relevance(model: Classifier, images: Tensor, target: Tensor) -> Tensor:
    """(B, h, w) relevance on the grid of the patch tokens for classes (B,); see `cam`."""
    return _token_relevance(model, images, F.one_hot(target, len(model.config.classes)).float())


def enlarged(maps: Tensor, images: Tensor) -> Tensor:
    """Maps (B, h, w) or (B, t, h, w) at the size of the images, linearly interpolated."""
    sides = images.shape[2:]
    return F.interpolate(maps[:, None], size=sides, mode=_LINEAR[images.ndim], align_corners=False)[:, 0]


def unit_range(maps: Tensor) -> Tensor:
    """Each map (B, ...) scaled to [0, 1]; one that does not vary becomes 0."""
    flat = maps.flatten(1)
    low, high = flat.amin(dim=1, keepdim=True), flat.amax(dim=1, keepdim=True)
    return ((flat - low) / (high - low).clamp_min(1e-10)).view_as(maps)


def _weighted(
    asked: Question,
    weighting: Weighting,
    layer: str | None,
    prefix_tokens: int | None,
    grid: Sequence[int] | None,
) -> Tensor:
    images = asked.images.clone().requires_grad_()
    with tapped_maps(asked.model, asked.images, layer) as kept:
        score = asked.first_score(images)
    (gradient,) = torch.autograd.grad(score.sum(), kept())
    maps, gradient = (
        as_maps(x, images, prefix_tokens=prefix_tokens, grid=grid) for x in (kept().detach(), gradient)
    )
    return enlarged((weighting(maps, gradient) * maps).sum(dim=1).relu(), images)


def _token_relevance(model: Classifier, images: Tensor, weights: Tensor) -> Tensor:
    with torch.no_grad():
        features = model.encoder((images - model.mean) / model.std)
        pools_the_mean = torch.allclose(features.pooled, features.patches.mean(dim=1), rtol=1e-3, atol=1e-4)
    if pools_the_mean:
        with torch.no_grad():
            relevance = torch.einsum("bnd,bd->bn", features.patches, weights @ model.head.weight)
    else:
        relevance = _grad_cam_of_tokens(model, images, weights)
    return relevance.unflatten(1, features.grid)


def _grad_cam_of_tokens(model: Classifier, images: Tensor, weights: Tensor) -> Tensor:
    """relu(sum_d mean_n(dz/dF_nd) F_nd) of tokens F, or the cells' relu(mean(dz/dx x)) of pixels, (B, N)."""
    with torch.enable_grad(), torch.inference_mode(False):
        pixels = ((images.clone() - model.mean) / model.std).requires_grad_()
        features = model.encoder(pixels)
        score = (model.head(features.pooled) * weights).sum()
        by_token, by_pixel = torch.autograd.grad(score, (features.patches, pixels), allow_unused=True)
        if by_token is not None:
            relevance = torch.einsum("bnd,bd->bn", features.patches, by_token.mean(dim=1))
        elif by_pixel is not None:
            each = (by_pixel * pixels).sum(dim=1)
            relevance = F.adaptive_avg_pool2d(each, features.grid).flatten(1)
        else:
            raise ValueError(f"{type(model.encoder).__name__}: the class does not depend on the image")
        return F.relu(relevance).detach()
