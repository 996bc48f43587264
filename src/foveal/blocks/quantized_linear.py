"""Linear layers and convolutions of few bits: weights packed, inputs on a grid (LRP-QViT, arXiv 2401.11243).

    change_model(model, "quantized-linear", layers={"blocks.0.attn.qkv": [4, 4]},
                 attention={"blocks.0.attn": [4, 4, "log-sqrt2"]})

Results are those of numbers on the grids, computed in floats: what is small is the file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.blocks.changes import register_change
from foveal.blocks.quantized_attention import QuantizedAttention, WeightsGrid
from foveal.blocks.quantized_numbers import check_bits, pack, packed_size, uniform, uniform_codes, unpack


class QuantizedLayer(nn.Module):
    """Weights of few bits, a grid for each output channel; inputs on one grid. See its two subclasses.

    Args:
        shape: of the weight, outputs first.
        weight_bits: 2 to 8.
        activation_bits: of the inputs, 2 to 8, or 32 for none.
    """

    packed: Tensor
    weight_scale: Tensor
    weight_zero: Tensor
    activation_scale: Tensor
    activation_zero: Tensor

    def __init__(self, shape: Sequence[int], *, weight_bits: int, activation_bits: int) -> None:
        super().__init__()
        check_bits(weight_bits, "the weight")
        check_bits(activation_bits, "the input", off=True)
        self.shape, self.weight_bits, self.activation_bits = tuple(shape), weight_bits, activation_bits
        outputs = self.shape[0]
        self.register_buffer("packed", torch.zeros(packed_size(self._count, weight_bits), dtype=torch.uint8))
        self.register_buffer("weight_scale", torch.ones(outputs))
        self.register_buffer("weight_zero", torch.zeros(outputs))
        self.register_buffer("activation_scale", torch.ones(()))
        self.register_buffer("activation_zero", torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self._unpacked: Tensor | None = None

    @property
    def _count(self) -> int:
        return torch.Size(self.shape).numel()

    @property
    def weight(self) -> Tensor:
        """Of `shape`, on its grid; unpacked once."""
        if self._unpacked is not None and self._unpacked.device == self.packed.device:
            return self._unpacked.to(self.weight_scale.dtype)
        # What is kept must serve training, too, and be no stand-in of a pass that is only traced.
        with torch.inference_mode(False), torch.no_grad():
            codes = unpack(self.packed, self.weight_bits, self._count).view(self.shape)
            along = (-1, *[1] * (len(self.shape) - 1))
            weight = (codes - self.weight_zero.view(along)) * self.weight_scale.view(along)
        if type(weight) is Tensor:
            self._unpacked = weight
        return weight

    @torch.no_grad()
    def fill(self, weight: Tensor, scale: Tensor, zero_point: Tensor, bias: Tensor | None = None) -> None:
        """Put a weight on a grid and pack it.

        Args:
            weight: of `shape`.
            scale: (outputs,) steps.
            zero_point: (outputs,) codes of 0.
            bias: (outputs,); none is 0.
        """
        along = (-1, *[1] * (len(self.shape) - 1))
        codes = uniform_codes(weight, scale.view(along), zero_point.view(along), self.weight_bits)
        self.packed.copy_(pack(codes, self.weight_bits))
        self.weight_scale.copy_(scale)
        self.weight_zero.copy_(zero_point)
        self.bias.copy_(torch.zeros_like(self.bias) if bias is None else bias)
        self._unpacked = None

    def _load_from_state_dict(self, *given: Any) -> None:
        self._unpacked = None
        super()._load_from_state_dict(*given)

    def __getstate__(self) -> dict[str, Any]:
        """What is unpacked can be made again."""
        return {**super().__getstate__(), "_unpacked": None}

    def _on_grid(self, x: Tensor) -> Tensor:
        return uniform(x, self.activation_scale, self.activation_zero, self.activation_bits)


class QuantizedLinear(QuantizedLayer):
    """`nn.Linear` of few bits; always with a bias.

    Args:
        in_features: of a token.
        out_features: of what it becomes.
        weight_bits: 2 to 8.
        activation_bits: of the tokens, 2 to 8, or 32 for none.
    """

    def __init__(
        self, in_features: int, out_features: int, *, weight_bits: int, activation_bits: int
    ) -> None:
        super().__init__(
            (out_features, in_features), weight_bits=weight_bits, activation_bits=activation_bits
        )
        self.in_features, self.out_features = in_features, out_features

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) to (..., out_features)."""
        return F.linear(self._on_grid(x), self.weight, self.bias)


class QuantizedConv2d(QuantizedLayer):
    """`nn.Conv2d` of few bits, padded by zeros; always with a bias.

    Args:
        layer: whose size it takes.
        weight_bits: 2 to 8.
        activation_bits: of the pixels, 2 to 8, or 32 for none.
    """

    def __init__(self, layer: nn.Conv2d, *, weight_bits: int, activation_bits: int) -> None:
        super().__init__(layer.weight.shape, weight_bits=weight_bits, activation_bits=activation_bits)
        self.stride, self.padding, self.dilation = layer.stride, layer.padding, layer.dilation
        self.groups, self.kernel_size = layer.groups, layer.kernel_size
        self.in_channels, self.out_channels = layer.in_channels, layer.out_channels

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, O, h, w)."""
        return F.conv2d(
            self._on_grid(x), self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )


@register_change("quantized-linear")
def quantized_linear(
    model: nn.Module,
    *,
    layers: Mapping[str, Sequence[int]],
    attention: Mapping[str, tuple[int, int, WeightsGrid]] | None = None,
) -> None:
    """Put layers of few bits in the place of others, in place; their numbers are loaded or filled afterwards.

    Args:
        model: or a part of one.
        layers: by name, bits of the weight and of the input.
        attention: by name of the module, bits of the operands of both products, and the grid of the weights.

    Raises:
        ValueError: a name that the model does not have, or of a layer of another kind.
    """
    for name, (weight_bits, activation_bits) in layers.items():
        layer = _part(model, name)
        bits = {"weight_bits": weight_bits, "activation_bits": activation_bits}
        made: QuantizedLayer
        if isinstance(layer, nn.Linear):
            made = QuantizedLinear(layer.in_features, layer.out_features, **bits)
        elif isinstance(layer, nn.Conv2d) and layer.padding_mode == "zeros":
            made = QuantizedConv2d(layer, **bits)
        else:
            raise ValueError(
                f"{name} is a {type(layer).__name__}, which has no form of few bits; allowed: nn.Linear and "
                "nn.Conv2d padded by zeros"
            )
        _replace(model, name, made.to(layer.weight.device).train(layer.training))
    for name, (scores_bits, mixing_bits, weights) in (attention or {}).items():
        wrapped = QuantizedAttention(
            _part(model, name), scores_bits=scores_bits, mixing_bits=mixing_bits, weights=weights
        )
        _replace(model, name, wrapped)


def _part(model: nn.Module, name: str) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError as error:
        raise ValueError(f"{type(model).__name__} has no layer {name!r} ({error})") from error


def _replace(model: nn.Module, name: str, made: nn.Module) -> None:
    place, _, last = name.rpartition(".")
    setattr(model.get_submodule(place), last, made)
