"""Attributions of Captum, pytorch-grad-cam, zennit and LXT as their examples use them, for one output.

Each is a function from images (1, 3, H, W) to a map (H, W), of the name that the same method has in foveal.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from peers.propagation import lxt_relevance

Explained = Callable[[Tensor], Tensor]


def captum_attributions(
    model: nn.Module, layer: nn.Module, segments: Tensor, base: Tensor
) -> dict[str, Explained]:
    """Captum's own classes, at the settings of foveal's methods of these names.

    Args:
        model: to (B, 1).
        layer: of Grad-CAM.
        segments: (1, 1, H, W) int64, of the method that takes pieces away.
        base: (1, 3, H, W), what stands for a piece that is gone.
    """
    from captum import attr

    apart = copy.deepcopy(model)  # its hooks want activations that do not work in place
    for module in apart.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False

    def summed(make: Callable[[], Any], **options: Any) -> Explained:
        return lambda images: make().attribute(images, target=0, **options)[0].sum(dim=0).detach()

    def largest(make: Callable[[], Any], **options: Any) -> Explained:
        return lambda images: make().attribute(images, target=0, **options)[0].abs().amax(dim=0).detach()

    def enlarged(images: Tensor) -> Tensor:
        found = attr.LayerGradCam(model, layer).attribute(images, target=0, relu_attributions=True)
        return attr.LayerAttribution.interpolate(found, tuple(images.shape[2:]), "bilinear")[0, 0].detach()

    return {
        "saliency": largest(lambda: attr.Saliency(model)),
        "input-x-gradient": summed(lambda: attr.InputXGradient(model)),
        "integrated-gradients": summed(lambda: attr.IntegratedGradients(model), n_steps=64),
        "guided-backprop": largest(lambda: attr.GuidedBackprop(apart)),
        "deconvolution": largest(lambda: attr.Deconvolution(apart)),
        "feature-ablation": summed(
            lambda: attr.FeatureAblation(model), feature_mask=segments, baselines=base
        ),
        "grad-cam": enlarged,
    }


def grad_cam_attributions(model: nn.Module, layer: nn.Module) -> dict[str, Explained]:
    """The layer maps of pytorch-grad-cam."""
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import RawScoresOutputTarget

    def of(kind: str) -> Explained:
        def relevance(images: Tensor) -> Tensor:
            with getattr(pytorch_grad_cam, kind)(model=model, target_layers=[layer]) as cam:
                given = images.clone().requires_grad_()
                return torch.from_numpy(cam(input_tensor=given, targets=[RawScoresOutputTarget()])[0])

        return relevance

    kinds = {
        "grad-cam": "GradCAM",
        "grad-cam++": "GradCAMPlusPlus",
        "hires-cam": "HiResCAM",
        "layer-cam": "LayerCAM",
        "score-cam": "ScoreCAM",
    }
    return {name: of(kind) for name, kind in kinds.items()}


def zennit_attributions(model: nn.Module) -> dict[str, Explained]:
    """EpsilonPlusFlat of zennit."""
    from zennit.canonizers import SequentialMergeBatchNorm
    from zennit.composites import EpsilonPlusFlat

    def relevance(images: Tensor) -> Tensor:
        composite = EpsilonPlusFlat(canonizers=[SequentialMergeBatchNorm()])
        with composite.context(model) as prepared:
            given = images.clone().requires_grad_()
            outputs = prepared(given)
            return torch.autograd.grad(outputs, given, outputs.detach())[0][0].sum(dim=0)

    return {"lrp": relevance}


def lxt_attributions(vit: nn.Module) -> dict[str, Explained]:
    """CP-LRP of LXT for a vision transformer of torchvision."""
    relevance = lxt_relevance(vit, 0)
    return {"lrp": lambda images: relevance(images)[0].sum(dim=0)}
