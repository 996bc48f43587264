"""Class activation maps: exact for a pooled linear head, gradient-weighted for everything else."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.models.classifier import Classifier


def explain(model: nn.Module, images: Tensor, target: Tensor) -> Tensor:
    """Relevance of each pixel for a class.

    A `Classifier` pools the mean of its encoder's patch tokens into a linear head, so its map
    CAM = sum_k W[c, k] F_k needs no gradient: its mean over the grid plus the bias is the logit (Zhou et
    al., arXiv 1512.04150). An encoder that pools otherwise gets Grad-CAM (Selvaraju et al., arXiv
    1610.02391) on its patch tokens: the tokens weighted by the gradient of the logit averaged over the
    grid, positive part. Where the pooled vector is a token of its own, which the last patch tokens do not
    reach, it is gradient times input (Shrikumar et al., arXiv 1605.01713): standardised pixels times the
    logit's gradient, summed over each cell of the grid, positive part.

    Args:
        model: a `Classifier`, in evaluation mode.
        images: (B, C, H, W) in [0, 1].
        target: (B,) class indices.

    Returns:
        (B, H, W) relevance on the input grid, bilinearly enlarged; not normalised.

    Raises:
        TypeError: the model is no `Classifier`.
        ValueError: `target` does not fit the batch or the classes.
    """
    if not isinstance(model, Classifier):
        raise TypeError(f"explain takes a Classifier, not a {type(model).__name__}")
    classes = len(model.config.classes)
    if target.shape != images.shape[:1] or not ((target >= 0) & (target < classes)).all():
        raise ValueError(
            f"target {target.tolist()}: {len(images)} indices from 0 to {classes - 1} are wanted"
        )
    cam = token_relevance(model, images, target)
    return F.interpolate(cam[:, None], size=images.shape[-2:], mode="bilinear", align_corners=False)[:, 0]


def token_relevance(model: Classifier, images: Tensor, target: Tensor) -> Tensor:
    """(B, h, w) relevance on the grid of the patch tokens; see `explain`."""
    with torch.no_grad():
        features = model.encoder((images - model.mean) / model.std)
        pools_the_mean = torch.allclose(features.pooled, features.patches.mean(dim=1), rtol=1e-3, atol=1e-4)
    if pools_the_mean:
        with torch.no_grad():
            relevance = torch.einsum("bnd,bd->bn", features.patches, model.head.weight[target])
    else:
        relevance = _grad_cam(model, images, target)
    return relevance.unflatten(1, features.grid)


def _grad_cam(model: Classifier, images: Tensor, target: Tensor) -> Tensor:
    """relu(sum_d mean_n(dz/dF_nd) F_nd) of tokens F, or the cells' relu(mean(dz/dx x)) of pixels, (B, N)."""
    with torch.enable_grad(), torch.inference_mode(False):
        pixels = ((images.clone() - model.mean) / model.std).requires_grad_()
        features = model.encoder(pixels)
        logits = model.head(features.pooled).gather(1, target[:, None]).sum()
        by_token, by_pixel = torch.autograd.grad(logits, (features.patches, pixels), allow_unused=True)
        if by_token is not None:
            relevance = torch.einsum("bnd,bd->bn", features.patches, by_token.mean(dim=1))
        elif by_pixel is not None:
            each = (by_pixel * pixels).sum(dim=1)
            relevance = F.adaptive_avg_pool2d(each, features.grid).flatten(1)
        else:
            raise ValueError(f"{type(model.encoder).__name__}: the class does not depend on the image")
        return F.relu(relevance).detach()
