"""How much of what a transformer says goes through each of its layers (LRP-QViT, arXiv 2401.11243).

Relevance of 1 for the class starts at the logits and is shared out backwards. At every residual sum a part of
it goes into the branch, the rest passes it by: what meets a layer is its contribution.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from foveal.blocks.module_calls import named_calls
from foveal.blocks.quantized_attention import attention_modules, products_met
from foveal.compression.layers import weight_layers
from foveal.explanation.lrp import composite_for
from foveal.explanation.lrp_mode import Composite, Propagation
from foveal.explanation.methods import frozen
from foveal.explanation.randomisation import rank_correlation
from foveal.explanation.taps import tapped

Measure = Literal["size", "positive", "share"]


@dataclass(frozen=True)
class LayerRelevance:
    """Relevance that meets the layers of a model, of each image.

    Attributes:
        size: by layer, (N,) sums of the size of the relevance of its outputs. A product of attention is named
            by its module and "scores" or "mixing".
        signed: by layer, (N,) sums of the relevance itself, of 1 at the logits.
        positive: by layer, (N,) sums of what is above 0.
    """

    size: dict[str, Tensor]
    signed: dict[str, Tensor]
    positive: dict[str, Tensor]

    def contributions(
        self, measure: Measure = "share", *, images: Tensor | slice = slice(None)
    ) -> dict[str, float]:
        """Omega: means over the images, divided by their sum over the layers.

        Args:
            measure: "share", the size of the signed sum: what of the class goes through the layer's branch,
                where parts that cancel each other do not count; "size", the sum of sizes; or "positive".
            images: indices of those that count.
        """
        found = {name: each.abs() for name, each in self.signed.items()}
        if measure != "share":
            found = self.size if measure == "size" else self.positive
        means = {name: float(values[images].mean()) for name, values in found.items()}
        total = sum(means.values())
        return {name: mean / total for name, mean in means.items()}


def layer_relevance(
    model: nn.Module,
    images: Tensor,
    target: Tensor | None = None,
    *,
    rules: str | Composite = "chefer",
    layers: Sequence[str] | None = None,
    products: bool = True,
    batch_size: int = 32,
    dtype: torch.dtype = torch.float32,
) -> LayerRelevance:
    """Relevance that meets each layer with weights and each product of attention.

    Args:
        model: a transformer from images to logits (B, K), in evaluation mode; it stays as it is.
        images: (N, C, H, W) as the model takes them.
        target: (N,) classes; None takes those that the model says.
        rules: composite of `foveal.explanation.lrp`: "chefer", or "attn-lrp" for another ranking.
        layers: names of modules; None takes all linear layers and convolutions that are called.
        products: tell those of attention, too.
        batch_size: images at a time.
        dtype: of the computation; shares at residual sums are computed in 64 bits in any case.

    Raises:
        ValueError: no images, or attention whose products cannot be met.
        NotImplementedError: an operation without a rule; tells its name and the module that called it.
    """
    if not len(images):
        raise ValueError("there are no images to score layers with; give some, such as 256")
    names = [layer.name for layer in weight_layers(model, images)] if layers is None else list(layers)
    attention = list(attention_modules(model, images)) if products else []
    worker = deepcopy(model).to(dtype)
    composite = composite_for(worker, rules)
    parts = [
        _relevances(
            worker,
            images[start : start + batch_size].to(dtype),
            None if target is None else target[start : start + batch_size],
            composite,
            names,
            attention,
        )
        for start in range(0, len(images), batch_size)
    ]
    joined = [{name: torch.cat([part[name][i] for part in parts]) for name in parts[0]} for i in range(3)]
    return LayerRelevance(*joined)


def _relevances(
    model: nn.Module,
    images: Tensor,
    target: Tensor | None,
    composite: Composite,
    names: Sequence[str],
    attention: list[str],
) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Of each layer sizes, signed sums and positive sums (B,)."""
    met: dict[str, Tensor] = {}

    def result(name: str, product: str, y: Tensor) -> None:
        met[f"{name} {product}"] = y

    with frozen(model):
        given = images.clone().requires_grad_()
        with (
            tapped(model, names) as kept,
            products_met(model, attention, result=result),
            named_calls(model) as calls,
            Propagation(composite, calls),
        ):
            logits = model(given)
        chosen = logits.argmax(dim=1) if target is None else target.to(logits.device)
        picked = logits.gather(1, chosen[:, None])[:, 0]
        tensors = {**kept, **met}
        # Some layers read constants, such as tables of places.
        moving = [name for name, value in tensors.items() if value.requires_grad]
        gradients = torch.autograd.grad(
            (picked / picked.detach()).sum(), [tensors[name] for name in moving], allow_unused=True
        )
    of = dict(zip(moving, gradients, strict=True))
    found = {}
    for name, value in tensors.items():
        gradient = of.get(name)
        if gradient is None:
            zero = value.new_zeros(len(images))
            found[name] = zero, zero, zero
            continue
        shares = value.detach() * gradient
        # Windows of an image follow each other in the batch.
        shares = shares.reshape(len(images), -1)
        found[name] = shares.abs().sum(dim=1), shares.sum(dim=1), shares.clamp_min(0).sum(dim=1)
    return found


def rank_agreement(first: Mapping[str, float], second: Mapping[str, float]) -> float:
    """Spearman's correlation of the contributions of the same layers."""
    values = torch.tensor([[each[name] for name in first] for each in (first, second)])
    return float(rank_correlation(values[:1], values[1:])[0])
