"""Excitation backprop and its contrastive form, by the rules of relevance propagation (arXiv 1608.00507).

The chance that a winning neuron was excited by an input is its share of the positive contributions: alpha 1,
beta 0, without biases.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.func import functional_call

from foveal.explanation.cam import enlarged
from foveal.explanation.lrp import relevance_of
from foveal.explanation.lrp_mode import Composite
from foveal.explanation.lrp_rules import AlphaBeta, stabilised
from foveal.explanation.methods import Question, register_method
from foveal.explanation.taps import as_maps, last_called

_SHARE = AlphaBeta(zero_bias=True)
EXCITATION = Composite(convolution=_SHARE, linear=_SHARE, in_attention=_SHARE)


@register_method("excitation-backprop", "propagation", signed=False)
def excitation_backprop(
    asked: Question,
    *,
    layer: str | None = None,
    prefix_tokens: int | None = None,
    grid: Sequence[int] | None = None,
) -> Tensor:
    """Chance that each pixel, or place of a layer, excited the class (marginal winning probability).

    The chances of an image add up to its weights, 1 for a class, less what neurons without an excited input
    keep.
    """
    return _winning(asked, layer, prefix_tokens, grid)


@register_method("contrastive-excitation", "propagation", signed=False)
def contrastive_excitation(
    asked: Question,
    *,
    layer: str | None = None,
    prefix_tokens: int | None = None,
    grid: Sequence[int] | None = None,
) -> Tensor:
    """What excites the class more than it excites its opposite, whose last weights are negated.

    Both chances are scaled to add up to 1 before one is taken from the other, as at the published contrast
    layer below the last weights, since what lies below is linear in them; parts below 0 are cut off.
    """
    opposite = _Opposite(asked.model, _last_weighted(asked.model, asked.images)).eval()
    inner = None if layer is None else f"model.{layer}"
    own = _winning(asked, layer, prefix_tokens, grid)
    other = _winning(asked.about(model=opposite), inner, prefix_tokens, grid)
    return (_unit_sum(own) - _unit_sum(other)).relu()


class _Opposite(nn.Module):
    """A model whose last weighted layer has the opposite sign."""

    def __init__(self, model: nn.Module, last: str) -> None:
        super().__init__()
        self.model = model
        self.last = last

    def forward(self, images: Tensor) -> Tensor:
        named = dict(self.model.named_parameters())
        turned = {
            name: -named[name] for name in (f"{self.last}.weight", f"{self.last}.bias") if name in named
        }
        return functional_call(self.model, turned, (images,))


def _winning(
    asked: Question, layer: str | None, prefix_tokens: int | None, grid: Sequence[int] | None
) -> Tensor:
    """Relevance that starts as the weights themselves: they over the outputs, times the outputs."""
    started = Question(
        asked.model, asked.images, lambda outputs: asked.weights_for(outputs) / stabilised(outputs, 1e-6)
    )
    pixels, inside = relevance_of(started, EXCITATION, layers=[] if layer is None else [layer])
    if layer is None:
        return pixels.sum(dim=1)
    maps = as_maps(inside[layer], asked.images, prefix_tokens=prefix_tokens, grid=grid)
    return enlarged(maps.sum(dim=1), asked.images)


def _unit_sum(maps: Tensor) -> Tensor:
    sums = maps.flatten(1).sum(dim=1).view(-1, *[1] * (maps.ndim - 1))
    return maps / stabilised(sums, 1e-12)


def _last_weighted(model: nn.Module, images: Tensor) -> str:
    """Name of the linear layer or convolution that is called last."""
    weighted = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
    name = last_called(model, images, lambda module, _output: isinstance(module, weighted))
    if name is None:
        raise ValueError(f"{type(model).__name__} calls no linear layer or convolution as a module")
    return name
