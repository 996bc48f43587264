"""Where operations get the modified gradients under which tensor times gradient is relevance.

Linear maps follow a `Rule`; activations hand everything to their input; of two factors each gets half; gates,
deviations and divisors are held constant (arXiv 2402.05602, 2406.07592 for scans).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode, resolve_name

from foveal.explanation.lrp_rules import Epsilon, Layer, Rule, stabilised

Attention = Literal["cp", "product", "identity"]


@dataclass(frozen=True)
class Composite:
    """Which rule for which operation.

    Attributes:
        convolution: of convolutions, normalisations by fixed statistics merged into them; None is `Epsilon`
            with no stabiliser, the plain gradient.
        linear: of fully connected layers.
        first: of the first of either, which reads the pixels; None is as the others.
        in_attention: of the projections inside torch's own multi-head attention.
        attention: "cp" holds attention weights constant, so that all relevance goes to the values and none is
            lost (Ali et al., arXiv 2202.07304); "product" halves it between weights and values and goes on
            through the softmax, which does not conserve (AttnLRP); "identity" halves it and passes it through
            the softmax as it is (Chefer et al., CVPR 2021).
        normalisation: "deviation" holds the deviation of layer normalisation constant; "identity" passes
            relevance through it as it is (Chefer et al.).
        addition: of two tensors that both depend on the images: "parts", by what each adds; "sizes", of each
            image by the size of what each adds in all, so that parts of other signs do not grow each other
            (Chefer et al.). What is constant then gets nothing.
    """

    convolution: Rule | None = None
    linear: Rule | None = None
    first: Rule | None = None
    in_attention: Rule | None = None
    attention: Attention = "cp"
    normalisation: Literal["deviation", "identity"] = "deviation"
    addition: Literal["parts", "sizes"] = "parts"


class _Shared(torch.autograd.Function):
    """A linear map whose modified gradient is that of a rule."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        layer: Layer,
        rule: Rule,
        pixels: bool,
        value: Tensor | None,
    ) -> Tensor:
        y = layer(x, weight, bias) if value is None else value
        ctx.save_for_backward(x, y)
        ctx.told = weight, bias, layer, rule, pixels
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, y = ctx.saved_tensors
        weight, bias, layer, rule, pixels = ctx.told
        share = rule.relevance if pixels else rule.gradient
        return share(layer, x, weight, bias, y * gradient), None, None, None, None, None, None


@dataclass
class _Linear:
    """How a tensor came about by a linear map, so that a normalisation can be merged into it.

    `pixels`: its rule is that of pixels, which tells relevance and not a gradient. `plain` is the value with
    the map's own gradient, None under a rule that needs another.
    """

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    layer: Layer
    rule: Rule | None
    pixels: bool
    plain: Tensor | None = None


class Propagation(TorchFunctionMode):
    """Gives operations on tensors that depend on the images their modified gradients.

    `calls` are the names of the modules that are being called, for errors; see `named_calls`.
    """

    def __init__(self, composite: Composite, calls: Sequence[str] = ()) -> None:
        super().__init__()
        self.composite, self.calls = composite, calls
        self._met_first = False
        self._last: tuple[Tensor, _Linear] | None = None

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if not _moves(args) and not (kwargs and _moves(kwargs.values())):
            return func(*args, **kwargs)
        if self.reads_pixels and not self._met_first and func in _SCALES:
            return _straight(func, *args, **kwargs)
        if func in _HANDLERS:
            return _HANDLERS[func](self, func, *args, **kwargs)
        result = func(*args, **kwargs)
        name = getattr(func, "__name__", str(func))
        passes = name in _PASSING or name.startswith("__")
        if not passes and any(tensor.requires_grad for tensor in _tensors(result)):
            where = f" in {self.calls[-1]}" if self.calls else ""
            raise NotImplementedError(
                f"no relevance rule for {resolve_name(func) or name}{where}; explain this model by another "
                "method, such as integrated-gradients"
            )
        return result

    @property
    def reads_pixels(self) -> bool:
        """Whether the first linear map has a rule for pixels: what comes to images is relevance itself."""
        return self.composite.first is not None

    def linear(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, layer: Layer, rule: Rule | None
    ) -> Tensor:
        """A linear map by its rule; the first one of all reads the pixels."""
        pixels = False
        if not self._met_first:
            self._met_first = True
            if self.composite.first is not None:
                rule, pixels = self.composite.first, True
        return self._apply(_Linear(x, weight, bias, layer, rule, pixels))

    def merged_with(self, y: Tensor, scale: Tensor, shift: Tensor) -> Tensor | None:
        """scale * y + shift as one linear map, if y came from one; (O,) scale and shift of its outputs."""
        if self._last is None or self._last[0] is not y:
            return None
        told = self._last[1]
        along = (-1, *[1] * (y.ndim - 2))
        weight = told.weight * scale.view(-1, *[1] * (told.weight.ndim - 1))
        bias = shift if told.bias is None else told.bias * scale + shift
        value = (y if told.plain is None else told.plain) * scale.view(along) + shift.view(along)
        return self._apply(replace(told, weight=weight, bias=bias, plain=None), value)

    def _apply(self, told: _Linear, value: Tensor | None = None) -> Tensor:
        """The map's outputs with the gradient of its rule; `value` are those outputs, if they are known."""
        if told.rule is None or (not told.pixels and isinstance(told.rule, Epsilon)):
            told.plain = told.layer(told.x, told.weight, told.bias) if value is None else value
            y = told.plain
            if isinstance(told.rule, Epsilon):
                bias = told.bias
                if bias is not None and told.layer is not F.linear:
                    bias = bias.view(-1, *[1] * (y.ndim - 2))
                factor = told.rule.factor(y.detach(), bias)
                y = y.detach() + factor * (y - y.detach())
        else:
            known = None if value is None else value.detach()
            y = _Shared.apply(told.x, told.weight, told.bias, told.layer, told.rule, told.pixels, known)
        self._last = y, told
        return y


Handler = Callable[..., Any]
_HANDLERS: dict[Any, Handler] = {}


def handles(*functions: Any) -> Callable[[Handler], Handler]:
    """Decorator of what is called in place of operations: with the mode, the operation, its arguments."""

    def register(handler: Handler) -> Handler:
        _HANDLERS.update(dict.fromkeys(functions, handler))
        return handler

    return register


_SCALES = (
    torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__, torch.div, Tensor.div, Tensor.__truediv__,
)  # fmt: skip


def _straight(func: Any, *args: Any, **kwargs: Any) -> Tensor:
    """Pixels scaled by a constant on their way to the first map, relevance passed on as it is."""
    scaled = func(*args, **kwargs)
    pixels = next(tensor for tensor in _tensors(args) if tensor.requires_grad)
    if scaled.shape != pixels.shape:
        raise NotImplementedError("pixels change shape by being scaled: no relevance rule for that")
    return scaled.detach() + (pixels - pixels.detach())


def by_ratio(x: Tensor, y: Tensor) -> Tensor:
    """y = f(x) with the modified gradient f(x) / x: all relevance of the output goes to the input."""
    return _Ratio.apply(x, y.detach())


class _Ratio(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(x, y)
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        x, y = ctx.saved_tensors
        return gradient * (y / stabilised(x, 1e-10)), None


def sum_by_sizes(a: Tensor, b: Tensor) -> Tensor:
    """a + b of one shape; of each image's relevance R = A + B, a gets R |A| / (|A| + |B|), b the rest."""
    return _SumBySizes.apply(a, b)


class _SumBySizes(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(a, b)
        return a + b

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        a, b = ctx.saved_tensors
        over = tuple(range(1, a.ndim))
        # Sums that nearly cancel want 64 bits.
        of_a, of_b = ((x * gradient).sum(over, keepdim=True, dtype=torch.float64) for x in (a, b))
        total = (of_a + of_b) / stabilised(of_a.abs() + of_b.abs(), 1e-30)
        of_a, of_b = ((x.sign() * total).to(gradient.dtype) for x in (of_a, of_b))
        return gradient * of_a, gradient * of_b


def half(x: Tensor) -> Tensor:
    """x with half of its gradient, for one of two factors."""
    return x / 2 + x.detach() / 2


# Their own gradient shares relevance out: sums, means, copies and choices of places.
_PASSING_NAMES = """
    add add_ sub sub_ rsub neg subtract sum mean cumsum addcmul lerp cat concat concatenate stack hstack
    vstack chunk split tensor_split unbind unflatten flatten reshape view view_as reshape_as permute
    transpose swapaxes swapdims movedim moveaxis t squeeze unsqueeze expand expand_as repeat
    repeat_interleave tile roll flip rot90 contiguous clone to type_as float double half narrow select
    index_select gather take_along_dim masked_fill masked_fill_ where index_copy index_add scatter
    scatter_add index_put diagonal unfold as_strided pad _pad interpolate upsample grid_sample
    grid_sampler pixel_shuffle pixel_unshuffle fold channel_shuffle max_pool1d max_pool2d max_pool3d
    _max_pool1d _max_pool2d _max_pool3d boolean_dispatch fn avg_pool1d avg_pool2d avg_pool3d
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d
    adaptive_max_pool3d _adaptive_max_pool2d max amax maximum min amin minimum topk sort dropout dropout1d
    dropout2d dropout3d alpha_dropout feature_dropout dropout_ conv_transpose1d conv_transpose2d
    conv_transpose3d requires_grad_ detach retain_grad register_hook
"""
_PASSING = frozenset(_PASSING_NAMES.split())


def _moves(values: Iterable[Any]) -> bool:
    """Whether any tensor in these depends on the images; mostly the first one tells."""
    for value in values:
        if isinstance(value, Tensor):
            if value.requires_grad:
                return True
        elif isinstance(value, tuple | list | dict) and any(x.requires_grad for x in _tensors(value)):
            return True
    return False


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _tensors(part)
