"""Layer-wise relevance propagation through any network, by one modified backward pass.

Relevance is a tensor times its modified gradient: each operation gets a gradient with which its inputs,
times that gradient, share out what its outputs have (Achtibat et al., AttnLRP, arXiv 2402.05602). Operations
are met where torch is called, so that residual sums, functional activations and fused attention count like
modules, and no module is replaced. What has no rule is an error that names it, never a silent gradient.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from foveal.blocks.module_calls import named_calls
from foveal.explanation import lrp_attention, lrp_operations  # noqa: F401  they register their operations
from foveal.explanation.lrp_mode import Composite, Propagation
from foveal.explanation.lrp_rules import AlphaBeta, Box, Epsilon, Flat, Gamma, WSquare
from foveal.explanation.methods import Question, frozen, register_method
from foveal.explanation.taps import tapped
from foveal.explanation.targets import Target, score_of, weights_of
from foveal.settings import unknown_name


def box_of(model: nn.Module) -> Box:
    """The rule for pixels of [0, 1], or for the range of all channels standardised by the model."""
    mean, std = getattr(model, "mean", None), getattr(model, "std", None)
    if not (isinstance(mean, Tensor) and isinstance(std, Tensor)):
        return Box(0.0, 1.0)
    return Box(float(((0 - mean) / std).min()), float(((1 - mean) / std).max()))


COMPOSITES: dict[str, Callable[[nn.Module], Composite]] = {
    "epsilon": lambda model: Composite(),
    "epsilon-plus": lambda model: Composite(AlphaBeta(), Epsilon()),
    "epsilon-plus-flat": lambda model: Composite(AlphaBeta(), Epsilon(), Flat()),
    "epsilon-gamma-box": lambda model: Composite(Gamma(0.25), Epsilon(), box_of(model)),
    "epsilon-alpha2-beta1": lambda model: Composite(AlphaBeta(2, 1), Epsilon()),
    "epsilon-alpha2-beta1-flat": lambda model: Composite(AlphaBeta(2, 1), Epsilon(), Flat()),
    "epsilon-plus-wsquare": lambda model: Composite(AlphaBeta(), Epsilon(), WSquare()),
    "official": lambda model: Composite(Epsilon(1e-9, signed=False), AlphaBeta(epsilon=1e-9, zero_bias=True)),
    "attn-lrp": lambda model: Composite(attention="product"),
    "cp-lrp": lambda model: Composite(),
    "chefer": lambda model: Composite(
        AlphaBeta(zero_bias=True),
        AlphaBeta(zero_bias=True),
        in_attention=AlphaBeta(zero_bias=True),
        attention="identity",
        normalisation="identity",
        addition="sizes",
    ),
    "gamma-vit": lambda model: Composite(Gamma(0.25), Gamma(0.05)),
}
"""By name: rules of the field's usual composites; "official" is that of the salient relevance code."""


def composite_for(model: nn.Module, name: str | Composite) -> Composite:
    """A composite by its name.

    Raises:
        ValueError: there is none of that name.
    """
    if isinstance(name, Composite):
        return name
    if name not in COMPOSITES:
        raise ValueError(unknown_name("composite", name, sorted(COMPOSITES)))
    return COMPOSITES[name](model)


@register_method("lrp", "propagation")
def lrp(asked: Question, *, composite: str | Composite = "auto") -> Tensor:
    """Relevance that adds up to the score, shared out layer by layer (LRP; AttnLRP for attention and scans).

    `composite` names the rules: "auto" is "epsilon-plus-flat" where convolutions prevail, "cp-lrp" where
    there is attention or a scan. Relevance is that of the standardised pixels of models that standardise.
    """
    below = torch.zeros(len(asked.images), dtype=torch.bool)

    def weights(outputs: Tensor) -> Tensor:
        nonlocal below
        found = asked.weights_for(outputs)
        below = score_of(outputs, found) < 0
        return found

    relevance, _ = propagate(asked.model, asked.images, weights, composite)
    if below.any():
        warnings.warn(
            f"scores of images {below.nonzero()[:, 0].tolist()} are below 0, to which their relevance "
            "adds up: its positive parts speak for the class, the negative ones outweigh them",
            stacklevel=3,
        )
    return relevance


def relevance_of(
    asked: Question, composite: str | Composite = "auto", *, layers: Sequence[str] = ()
) -> tuple[Tensor, dict[str, Tensor]]:
    """`propagate` for a question."""
    return propagate(asked.model, asked.images, asked.weights_for, composite, layers=layers)


def propagate(
    model: nn.Module,
    images: Tensor,
    target: Target = None,
    composite: str | Composite = "auto",
    *,
    layers: Sequence[str] = (),
) -> tuple[Tensor, dict[str, Tensor]]:
    """Relevance of the pixels, and of the outputs of named layers, each of the shape of what it explains.

    One forward and one backward pass, also where `explain` is called.

    Args:
        model: in evaluation mode.
        images: as the model takes them.
        target: see `explain`.
        composite: a name of `COMPOSITES`, "auto" or rules of one's own.
        layers: names of layers.

    Raises:
        ValueError: an unknown composite, layer or target.
        NotImplementedError: an operation without a rule; tells its name and the module that called it.
    """
    rules = composite_for(model, kind_of(model) if composite == "auto" else composite)
    shift = getattr(model, "mean", None)
    images = images.detach().clone().requires_grad_()
    with frozen(model):
        with tapped(model, layers) as kept:
            mode = Propagation(rules)
            try:
                with mode:
                    outputs = model(images)
            except NotImplementedError:
                with named_calls(model) as calls, Propagation(rules, calls):
                    model(images)  # once more, to name the module
                raise
        score = (outputs * weights_of(outputs.detach(), target)).sum()
        found = torch.autograd.grad(score, [images, *kept.values()], allow_unused=True)
    images = images.detach()
    pixels = torch.zeros_like(images) if found[0] is None else found[0]
    if not mode.reads_pixels:
        pixels = (images - shift if isinstance(shift, Tensor) else images) * pixels
    inside = {
        name: torch.zeros_like(value) if gradient is None else value * gradient
        for (name, value), gradient in zip(kept.items(), found[1:], strict=True)
    }
    return pixels.detach(), {name: value.detach() for name, value in inside.items()}


def kind_of(model: nn.Module) -> str:
    """The composite that suits a model: of attention and scans, or of convolutions."""
    for module in model.modules():
        name = type(module).__name__.lower()
        if "attention" in name or "selectivescan" in name or "retention" in name:
            return "cp-lrp"
    return "epsilon-plus-flat"
