"""Modified gradients of linear maps, normalisations, activations, products and quotients."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from foveal.explanation.lrp_mode import Propagation, by_ratio, half, handles, sum_by_sizes


@handles(F.linear)
def _linear(
    mode: Propagation, func: Any, input: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    return mode.linear(input, weight, bias, F.linear, mode.composite.linear)


@handles(torch.conv1d, torch.conv2d, torch.conv3d)
def _convolution(
    mode: Propagation,
    func: Any,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *rest: Any,
    **options: Any,
) -> Tensor:
    names = ("stride", "padding", "dilation", "groups")
    layer = partial(func, **options, **dict(zip(names, rest, strict=False)))
    return mode.linear(input, weight, bias, layer, mode.composite.convolution)


@handles(F.batch_norm)
def _batch_norm(
    mode: Propagation,
    func: Any,
    input: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if training or running_var is None:
        return _standardised(input, (0, *range(2, input.ndim)), weight, bias, eps)
    scale = torch.rsqrt(running_var + eps) * (1.0 if weight is None else weight)
    shift = (0.0 if bias is None else bias) - running_mean * scale
    merged = mode.merged_with(input, scale, shift)
    if merged is not None:
        return merged
    return input * scale.view(-1, *[1] * (input.ndim - 2)) + shift.view(-1, *[1] * (input.ndim - 2))


def _standardised(
    x: Tensor, over: tuple[int, ...], weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    """Normalisation whose deviation is held constant; weight and bias along axis 1."""
    deviation = (x.var(over, unbiased=False, keepdim=True) + eps).sqrt().detach()
    y = (x - x.mean(over, keepdim=True)) / deviation
    shape = (-1, *[1] * (x.ndim - 2))
    y = y if weight is None else y * weight.view(shape)
    return y if bias is None else y + bias.view(shape)


@handles(F.layer_norm)
def _layer_norm(
    mode: Propagation,
    func: Any,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    if mode.composite.normalisation == "identity":
        return by_ratio(input, func(input.detach(), normalized_shape, weight, bias, eps))
    return _LayerNorm.apply(input, tuple(normalized_shape), weight, bias, eps)


class _LayerNorm(torch.autograd.Function):
    """Layer normalisation whose deviation is held constant."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: Tensor, shape: tuple[int, ...], weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> Tensor:
        y, _, inverse = torch.native_layer_norm(x, shape, weight, bias, eps)
        ctx.save_for_backward(inverse, weight)
        ctx.over = tuple(range(-len(shape), 0))
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        inverse, weight = ctx.saved_tensors
        along = gradient if weight is None else gradient * weight
        return (along - along.mean(ctx.over, keepdim=True)) * inverse, None, None, None, None


@handles(F.rms_norm, torch.rms_norm)
def _rms_norm(
    mode: Propagation,
    func: Any,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    if mode.composite.normalisation == "identity":
        return by_ratio(input, func(input.detach(), normalized_shape, weight, eps))
    over = tuple(range(-len(normalized_shape), 0))
    eps = torch.finfo(input.dtype).eps if eps is None else eps
    y = input * torch.rsqrt(input.square().mean(over, keepdim=True) + eps).detach()
    return y if weight is None else y * weight


@handles(F.group_norm)
def _group_norm(
    mode: Propagation,
    func: Any,
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    parts = input.unflatten(1, (num_groups, -1))
    y = _standardised(parts, tuple(range(2, parts.ndim)), None, None, eps).flatten(1, 2)
    shape = (-1, *[1] * (input.ndim - 2))
    y = y if weight is None else y * weight.view(shape)
    return y if bias is None else y + bias.view(shape)


@handles(F.instance_norm)
def _instance_norm(
    mode: Propagation,
    func: Any,
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not use_input_stats:
        return _batch_norm(mode, func, input, running_mean, running_var, weight, bias, False, momentum, eps)  # type: ignore[arg-type]
    return _standardised(input, tuple(range(2, input.ndim)), weight, bias, eps)


@handles(F.normalize)
def _normalize(
    mode: Propagation,
    func: Any,
    input: Tensor,
    p: float = 2.0,
    dim: int = 1,
    eps: float = 1e-12,
    out: None = None,
) -> Tensor:
    return input / input.norm(p, dim, keepdim=True).clamp_min(eps).detach()


@handles(F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_)
def _relu(mode: Propagation, func: Any, input: Tensor, inplace: bool = False) -> Tensor:
    return input.relu()


@handles(
    F.gelu, F.silu, F.mish, F.hardswish, F.elu, F.celu, F.selu, F.leaky_relu, F.prelu, F.relu6, F.hardtanh,
    F.softsign, torch.tanh, Tensor.tanh, F.tanh, torch.square, Tensor.square, torch.pow, Tensor.pow,
    Tensor.__pow__,
    torch.clamp, Tensor.clamp, Tensor.clamp_min, Tensor.clamp_max, torch.clamp_min, torch.clamp_max,
    torch.abs, Tensor.abs,
)  # fmt: skip
def _activation(mode: Propagation, func: Any, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    kwargs.pop("inplace", None)
    return by_ratio(input, func(input.detach(), *args, **kwargs))


@handles(
    torch.sigmoid, Tensor.sigmoid, F.sigmoid, F.hardsigmoid, F.softplus, F.logsigmoid, torch.sqrt,
    Tensor.sqrt,
    torch.rsqrt, Tensor.rsqrt, torch.var, Tensor.var, torch.std, Tensor.std, torch.norm, Tensor.norm,
    torch.linalg.vector_norm, torch.linalg.norm, torch.reciprocal, Tensor.reciprocal,
)  # fmt: skip
def _constant(mode: Propagation, func: Any, *args: Any, **kwargs: Any) -> Any:
    """Gates and statistics weigh what passes them and hold no relevance of their own."""
    return func(*args, **kwargs).detach()


@handles(
    torch.mul, Tensor.mul, Tensor.mul_, Tensor.__mul__, Tensor.__rmul__, Tensor.__imul__, torch.multiply,
    torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, Tensor.bmm, torch.mm, Tensor.mm,
)  # fmt: skip
def _product(mode: Propagation, func: Any, input: Any, other: Any, **kwargs: Any) -> Tensor:
    """Two factors that both depend on the images get half each."""
    plain = {Tensor.mul_: torch.mul, Tensor.__imul__: torch.mul}.get(func, func)
    if all(isinstance(x, Tensor) and x.requires_grad for x in (input, other)):
        input, other = half(input), half(other)
    return plain(input, other, **kwargs)


@handles(torch.einsum)
def _einsum(mode: Propagation, func: Any, equation: Any, *operands: Any) -> Tensor:
    given = operands[0] if len(operands) == 1 and not isinstance(operands[0], Tensor) else operands
    moving = sum(x.requires_grad for x in given)
    if moving > 2:
        raise NotImplementedError(f"no relevance rule for an einsum of {moving} factors")
    return func(equation, *(half(x) if moving == 2 and x.requires_grad else x for x in given))


@handles(
    torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__, Tensor.add_, Tensor.__iadd__, Tensor.sub_,
    Tensor.__isub__,
)  # fmt: skip
def _sum(mode: Propagation, func: Any, input: Any, other: Any, **kwargs: Any) -> Tensor:
    """Not in place: the backward pass needs what was there."""
    plain = torch.sub if func in (Tensor.sub_, Tensor.__isub__) else torch.add
    if mode.composite.addition == "sizes" and plain is torch.add and not kwargs:
        if all(isinstance(x, Tensor) and x.requires_grad for x in (input, other)):
            if input.shape == other.shape and input.ndim > 1:
                return sum_by_sizes(input, other)
        else:
            moving, fixed = (input, other) if _moves(input) else (other, input)
            y = torch.add(moving.detach(), fixed)
            if y.shape == moving.shape and bool(torch.isfinite(y).all()):
                return by_ratio(moving, y)
    return plain(input, other, **kwargs)


def _moves(x: Any) -> bool:
    return isinstance(x, Tensor) and x.requires_grad


@handles(torch.div, Tensor.div, Tensor.div_, Tensor.__truediv__, Tensor.__itruediv__, torch.true_divide)
def _quotient(mode: Propagation, func: Any, input: Any, other: Any, **kwargs: Any) -> Tensor:
    """What is divided by is held constant."""
    return torch.div(input, other.detach() if isinstance(other, Tensor) else other, **kwargs)
