"""Attention whose two products have operands of few bits, in models of timm and transformers.

Attention is met where torch computes it, so that its module stays as it is: fused, in windows with biases of
places, or as a function beside the module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from foveal.blocks.module_calls import named_calls
from foveal.blocks.quantized_numbers import check_bits, log_sqrt2, uniform
from foveal.blocks.torch_attention import attention_in_steps
from foveal.settings import unknown_name

_MATMULS = (torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, Tensor.bmm)
WeightsGrid = Literal["log-sqrt2", "uniform"]
Product = Literal["scores", "mixing"]
"""Queries times keys; weights times values."""
PRODUCTS: tuple[Product, ...] = ("scores", "mixing")
Operands = Callable[[str, Product, Tensor, Tensor], tuple[Tensor, Tensor]]
Result = Callable[[str, Product, Tensor], None]
OPERANDS = ("query", "key", "value")


@dataclass(frozen=True)
class ProductSize:
    """Of a product of attention, for one image.

    Attributes:
        macs: multiplications and additions.
        elements: numbers of both operands.
    """

    macs: int
    elements: int


class QuantizedAttention(nn.Module):
    """A module of attention, with the operands of both its products on grids of few bits.

    Queries, keys and values are uniform at fixed scales; the weights are powers of the square root of 2
    (RepQ-ViT, arXiv 2212.08254), or uniform.

    Args:
        attention: with one fused attention, or a product for the scores and one that mixes the values.
        scores_bits: of queries and keys, 2 to 8, or 32 for none.
        mixing_bits: of weights and values.
        weights: grid of the weights.
    """

    weights_scale: Tensor
    weights_zero: Tensor

    def __init__(
        self,
        attention: nn.Module,
        *,
        scores_bits: int,
        mixing_bits: int,
        weights: WeightsGrid = "log-sqrt2",
    ) -> None:
        super().__init__()
        check_bits(scores_bits, "the product of queries and keys", off=True)
        check_bits(mixing_bits, "the product of weights and values", off=True)
        if weights not in get_args(WeightsGrid):
            raise ValueError(unknown_name("grid of attention weights", weights, get_args(WeightsGrid)))
        self.attention = attention
        self.scores_bits, self.mixing_bits, self.weights = scores_bits, mixing_bits, weights
        for operand in (*OPERANDS, "weights"):
            self.register_buffer(f"{operand}_scale", torch.ones(()))
            self.register_buffer(f"{operand}_zero", torch.zeros(()))
        self.train(attention.training)

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """As the attention that it holds."""
        with _Products("", self._on_grids, None):
            return self.attention(*inputs, **options)

    def _on_grids(self, _name: str, product: Product, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        if product == "scores":
            return self._uniform("query", first, self.scores_bits), self._uniform(
                "key", second, self.scores_bits
            )
        if self.weights == "log-sqrt2":
            first = log_sqrt2(first, self.weights_scale, self.mixing_bits)
        else:
            first = self._uniform("weights", first, self.mixing_bits)
        return first, self._uniform("value", second, self.mixing_bits)

    def _uniform(self, operand: str, x: Tensor, bits: int) -> Tensor:
        return uniform(x, getattr(self, f"{operand}_scale"), getattr(self, f"{operand}_zero"), bits)


@contextmanager
def products_met(
    model: nn.Module,
    attention: Mapping[str, Any] | list[str],
    operands: Operands | None = None,
    result: Result | None = None,
) -> Iterator[None]:
    """Meet the products of named modules of attention in the passes made inside.

    Args:
        model: of timm or transformers.
        attention: names of the modules, as `attention_modules` finds them.
        operands: gets the module's name, the product and its operands (B, H, N, d), and gives those that are
            multiplied.
        result: is shown the module's name, the product and what it gave.
    """
    changed = []
    for name in attention:
        module = model.get_submodule(name)
        module.forward = _within(name, module.forward, operands, result)  # type: ignore[method-assign]
        changed.append(module)
    try:
        yield
    finally:
        for module in changed:
            del module.forward


def _within(name: str, forward: Any, operands: Operands | None, result: Result | None) -> Any:
    def inside(*inputs: Any, **options: Any) -> Any:
        with _Products(name, operands, result):
            return forward(*inputs, **options)

    return inside


@torch.no_grad()
def attention_modules(model: nn.Module, images: Tensor) -> dict[str, dict[Product, ProductSize]]:
    """The modules of attention that a pass calls, and the size of each product.

    Args:
        model: in evaluation mode.
        images: (B, C, H, W), of which the first is passed.

    Returns:
        Sizes by product, by module, in the order of their calls.

    Raises:
        ValueError: there is none, or one whose products cannot be met; tells its name.
    """
    with named_calls(model) as calls, _Finder(calls) as finder:
        model(images[:1])
    found: dict[str, dict[Product, ProductSize]] = {}
    for name, counts in finder.counts.items():
        if len(counts) != 2:
            raise ValueError(
                f"{name or type(model).__name__} multiplies tensors {len(counts)} times; attention with one "
                "product for its scores and one for its values is allowed, as in timm's and transformers' "
                "ViT, DeiT, DINOv2, CLIP and Swin. Leave products as they are with products=False"
            )
        found[name] = dict(zip(PRODUCTS, counts, strict=True))
    if not found:
        raise ValueError(
            f"{type(model).__name__} has no attention; allowed: vision transformers of timm and transformers"
        )
    return found


class _Products(TorchFunctionMode):
    """Hands the operands of the two products of one attention over, and takes them back."""

    def __init__(self, name: str, operands: Operands | None, result: Result | None) -> None:
        super().__init__()
        self.name, self.operands, self.result = name, operands, result
        self.count = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            with self:
                return attention_in_steps(*args, **kwargs)
        if not _multiplies(func, args):
            return func(*args, **kwargs)
        product = PRODUCTS[self.count % 2]
        self.count += 1
        first, second = args
        if self.operands is not None:
            first, second = self.operands(self.name, product, first, second)
        y = func(first, second)
        if self.result is not None:
            self.result(self.name, product, y)
        return y


class _Finder(TorchFunctionMode):
    def __init__(self, calls: list[str]) -> None:
        super().__init__()
        self.calls = calls
        self.counts: dict[str, list[ProductSize]] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = self.calls[-1] if self.calls else ""
        if func is F.multi_head_attention_forward or (
            func is torch.einsum and sum(isinstance(x, Tensor) and x.ndim > 2 for x in args[1:]) > 1
        ):
            raise ValueError(
                f"the products of {name} cannot be met: it computes attention by "
                f"{getattr(func, '__name__', func)}; allowed: attention of timm and transformers, "
                "or products=False, which leaves them as they are"
            )
        y = func(*args, **kwargs)
        if func is F.scaled_dot_product_attention:
            query, key = (args[i] if len(args) > i else kwargs[("query", "key")[i]] for i in (0, 1))
            value = args[2] if len(args) > 2 else kwargs["value"]
            weights = query.numel() // query.shape[-1] * key.shape[-2]
            self.counts.setdefault(name, []).extend(
                [
                    ProductSize(weights * query.shape[-1], query.numel() + key.numel()),
                    ProductSize(weights * value.shape[-1], weights + value.numel()),
                ]
            )
        elif _multiplies(func, args):
            size = ProductSize(y.numel() * args[0].shape[-1], args[0].numel() + args[1].numel())
            self.counts.setdefault(name, []).append(size)
        return y


def _multiplies(func: Any, args: tuple[Any, ...]) -> bool:
    return (
        func in _MATMULS
        and len(args) == 2
        and all(isinstance(x, Tensor) and x.ndim > 2 and not isinstance(x, nn.Parameter) for x in args)
    )
