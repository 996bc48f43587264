"""The packages `zennit` and `lxt`, used as their examples do: relevance of pixels for one class."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def zennit_relevance(network: nn.Module, composite: str, target: int) -> Callable[[Tensor], Tensor]:
    """A function from images to relevance by one of zennit's composites, its layers found beforehand.

    Args:
        network: a ResNet or VGG of torchvision, in evaluation mode.
        composite: its name in zennit, e.g. "EpsilonPlusFlat".
        target: class.
    """
    from zennit import composites
    from zennit.torchvision import ResNetCanonizer, VGGCanonizer

    network = copy.deepcopy(network)
    canonizer = (ResNetCanonizer if "ResNet" in type(network).__name__ else VGGCanonizer)()
    options: dict[str, Any] = {"canonizers": [canonizer]}
    if composite == "EpsilonGammaBox":
        ends = torch.full((1, 3, 1, 1), 3.0)
        options |= {"low": -ends, "high": ends}
    chosen = getattr(composites, composite)(**options)

    def relevance(images: Tensor) -> Tensor:
        with chosen.context(network) as prepared:
            given = images.clone().requires_grad_()
            outputs = prepared(given)
            start = torch.zeros_like(outputs)
            start[:, target] = outputs[:, target].detach()
            return torch.autograd.grad(outputs, given, start)[0]

    return relevance


def lxt_relevance(
    vit: nn.Module, target: int, *, gamma: tuple[float, float] | None = None
) -> Callable[[Tensor], Tensor]:
    """A function from images to relevance of LXT's preset for torchvision's vision transformer.

    Args:
        vit: of torchvision, in evaluation mode.
        target: class.
        gamma: of convolutions and linear layers, by zennit's rule as LXT's example has it; None is none.
    """
    preset = _lxt("lxt.efficient.models.vit_torch").cp_LRP
    if gamma is not None:
        import zennit.rules as rules
        from zennit.composites import LayerMapComposite

        _lxt("lxt.efficient.zennit_patches").monkey_patch_zennit(verbose=False)
        vit = copy.deepcopy(vit)
        layers = [(nn.Conv2d, rules.Gamma(gamma[0])), (nn.Linear, rules.Gamma(gamma[1]))]
        LayerMapComposite(layers).register(vit)

    def relevance(images: Tensor) -> Tensor:
        with _patched(preset):
            given = images.clone().requires_grad_()
            gradient = torch.autograd.grad(vit(given)[:, target].sum(), given)[0]
        return given.detach() * gradient

    return relevance


@contextmanager
def _patched(preset: dict[type[nn.Module], Callable[[type[nn.Module]], Any]]) -> Iterator[None]:
    """LXT changes classes of torch for good; here they are as before afterwards."""
    before = {kind: kind.forward for kind in preset}
    try:
        for kind, patch in preset.items():
            patch(kind)
        yield
    finally:
        for kind, forward in before.items():
            kind.forward = forward  # type: ignore[method-assign]
            for name in [name for name in vars(kind) if name.startswith("original_")]:
                delattr(kind, name)


def _lxt(name: str) -> Any:
    """A module of LXT without its package's own import, which asks for an older transformers."""
    found = importlib.util.find_spec("lxt")
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError("lxt is not installed")
    root = found.submodule_search_locations[0]
    for package, folder in (("lxt.efficient", "efficient"), ("lxt.efficient.models", "efficient/models")):
        if package not in sys.modules:
            module = types.ModuleType(package)
            module.__path__ = [f"{root}/{folder}"]
            sys.modules[package] = module
    return importlib.import_module(name)
