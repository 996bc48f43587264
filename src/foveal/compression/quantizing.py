"""A trained transformer to one whose layers have few bits each, from some images and without training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.blocks.changes import change_model
from foveal.blocks.quantized_attention import (
    Product,
    QuantizedAttention,
    WeightsGrid,
    attention_modules,
    products_met,
)
from foveal.blocks.quantized_linear import QuantizedLayer
from foveal.blocks.quantized_numbers import packed_size, uniform
from foveal.compression.calibration import (
    CLIP_SHARES,
    ChannelGrids,
    channel_grids,
    norm_readers,
    reparameterise,
)
from foveal.compression.layers import Role, weight_layers
from foveal.compression.quantizers import (
    MIN_MAX,
    PERCENTILES,
    LogSqrt2Quantizer,
    UniformQuantizer,
    uniform_grid,
)

Kind = Literal["clipped", "reparameterised", "min-max"]
AttentionWeights = Literal["log-sqrt2", "uniform", "least error"]
Bits = tuple[int, int]
"""Of weights and of inputs; of a product, of both operands (the second counts)."""


@dataclass(frozen=True)
class Unit:
    """What gets its bits as one: layers that read the same numbers, or a product of attention.

    Attributes:
        name: of the first layer, or of the module of attention and its product.
        layers: names; none of a product.
        role: of the first layer.
        product: of attention, with the name of its module.
        norm: name of the LayerNorm that only these layers read, where there is one.
        parameters: weights.
        macs: multiplications and additions for one image.
        elements: numbers that come in for one image.
        fixed: first or last of the model, which stay at 8 bits.
    """

    name: str
    layers: tuple[str, ...]
    role: Role | Literal["product"]
    product: tuple[str, Product] | None
    norm: str | None
    parameters: int
    macs: int
    elements: int
    fixed: bool


def units_of(model: nn.Module, images: Tensor, *, products: bool = True) -> list[Unit]:
    """The layers and products of a transformer that get bits, in the order of their calls.

    Args:
        model: in evaluation mode.
        images: (B, C, H, W), of which the first is passed.
        products: those of attention, too.

    Raises:
        ValueError: a layer that has no form of few bits, or attention whose products cannot be met; tells
            its name.
    """
    for name, module in model.named_modules():
        if isinstance(module, QuantizedLayer | QuantizedAttention):
            raise ValueError(f"{name} has few bits already; start from the whole model")
    norm_of = {reader: norm for norm, readers in norm_readers(model, images).items() for reader in readers}
    found: dict[str, Unit] = {}
    layers = weight_layers(model, images)
    for layer in layers:
        module = model.get_submodule(layer.name)
        if not (
            isinstance(module, nn.Linear)
            or (isinstance(module, nn.Conv2d) and module.padding_mode == "zeros")
        ):
            raise ValueError(
                f"{layer.name} is a {type(module).__name__}, which has no form of few bits; allowed: "
                "nn.Linear and nn.Conv2d padded by zeros"
            )
        norm = norm_of.get(layer.name)
        fixed = layer in (layers[0], layers[-1]) or layer.role in ("patches", "head")
        fixed |= layer.name.rpartition(".")[2].startswith("head")
        unit = Unit(
            layer.name, (layer.name,), layer.role, None, norm, layer.parameters, layer.macs,
            layer.rows * layer.inputs, fixed,
        )  # fmt: skip
        key = norm or layer.name
        if key in found:
            first = found[key]
            unit = replace(
                first,
                layers=(*first.layers, layer.name),
                parameters=first.parameters + layer.parameters,
                macs=first.macs + layer.macs,
                fixed=first.fixed or fixed,
            )
        found[key] = unit
    units = list(found.values())
    if products:
        for name, sizes in attention_modules(model, images).items():
            for product, size in sizes.items():
                units.append(
                    Unit(
                        f"{name} {product}", (), "product", (name, product), None, 0, size.macs,
                        size.elements, False,
                    )
                )  # fmt: skip
    return units


def uniform_bits(units: Sequence[Unit], bits: int) -> dict[str, Bits]:
    """The same for all, but 8 for those that are fixed."""
    return {unit.name: (8, 8) if unit.fixed else (bits, bits) for unit in units}


@torch.no_grad()
def quantize(
    model: nn.Module,
    images: Tensor,
    units: Sequence[Unit],
    bits: Mapping[str, Bits],
    *,
    kind: Kind = "clipped",
    clip: Sequence[float] = CLIP_SHARES,
    attention_weights: AttentionWeights = "log-sqrt2",
) -> list[dict[str, Any]]:
    """Put a model's layers and products on grids of few bits, in place.

    Args:
        model: in evaluation mode.
        images: (N, C, H, W) to calibrate on; 32 do.
        units: of `units_of`.
        bits: by unit.
        kind: "clipped", with channels behind a LayerNorm clipped (LRP-QViT); "reparameterised", without
            (RepQ-ViT); "min-max", from the least to the largest number, one grid a tensor, for comparison.
        clip: shares of the channels that are tried.
        attention_weights: their grid: "log-sqrt2"; "uniform", as "min-max" always has; or "least error", the
            one of each module with the less squared error: log-sqrt2 gains nothing beyond about 5 bits.

    Returns:
        A row for each layer and product, JSON values.

    Raises:
        ValueError: bits out of range, a unit without bits, or images that are not finite.
    """
    plan = {name: bits[unit.name] for unit in units for name in unit.layers}
    wanted = {unit.name: [bits[unit.name]] for unit in units}
    grids = {
        name: each[0]
        for name, each in observed(
            model, images, units, wanted, kind=kind, clip=clip, attention_weights=attention_weights
        ).items()
    }
    percentiles = MIN_MAX if kind == "min-max" else PERCENTILES
    inputs: dict[str, tuple[Tensor, Tensor]] = {}
    for unit in units:
        grid = grids[unit.name]
        if isinstance(grid, ChannelGrids) and unit.norm is not None:
            readers = [model.get_submodule(name) for name in unit.layers]
            norm: Any = model.get_submodule(unit.norm)
            inputs |= dict.fromkeys(unit.layers, reparameterise(norm, readers, grid))  # type: ignore[arg-type]
        elif isinstance(grid, UniformQuantizer):
            inputs |= dict.fromkeys(unit.layers, (grid.scale, grid.zero_point))
    weights = {}
    for name, (weight_bits, _) in plan.items():
        layer: Any = model.get_submodule(name)
        weight = layer.weight.detach().clone()
        scale, zero = weight_grid(weight, weight_bits, percentiles, together=kind == "min-max")
        weights[name] = weight, scale, zero, None if layer.bias is None else layer.bias.detach().clone()
    attention: dict[str, dict[Product, int]] = {}
    for unit in units:
        if unit.product is not None:
            attention.setdefault(unit.product[0], {})[unit.product[1]] = bits[unit.name][1]
    change_model(
        model,
        "quantized-linear",
        layers={name: list(each) for name, each in plan.items()},
        attention={
            name: [each["scores"], each["mixing"], _grid_name(grids[f"{name} mixing"])]
            for name, each in attention.items()
        },
    )
    inside = {name: f"{name}." for name in attention}
    for name, filled in weights.items():
        home = next((each for each in inside if name.startswith(inside[each])), None)
        place = name if home is None else f"{home}.attention{name.removeprefix(home)}"
        made: Any = model.get_submodule(place)
        made.fill(*filled)
        made.activation_scale.copy_(inputs[name][0])
        made.activation_zero.copy_(inputs[name][1])
    for unit in units:
        if unit.product is not None:
            _fill_product(model.get_submodule(unit.product[0]), unit.product[1], grids[unit.name])
    return [_row(unit, bits[unit.name], grids[unit.name], inputs) for unit in units]


def weight_grid(
    weight: Tensor, bits: int, percentiles: Sequence[float], *, together: bool
) -> tuple[Tensor, Tensor]:
    """Scale and zero-point (O,) of a weight (O, ...), the same for all outputs if `together`."""
    rows = weight.flatten()[None] if together else weight.flatten(1)
    scale, zero = uniform_grid(rows, bits, percentiles)
    return scale.expand(len(weight)).contiguous(), zero.expand(len(weight)).contiguous()


Grid = ChannelGrids | UniformQuantizer | tuple[Any, Any]


@torch.no_grad()
def observed(
    model: nn.Module,
    images: Tensor,
    units: Sequence[Unit],
    bits: Mapping[str, Sequence[Bits]],
    *,
    kind: Kind = "clipped",
    clip: Sequence[float] = CLIP_SHARES,
    attention_weights: AttentionWeights = "log-sqrt2",
) -> dict[str, list[Grid]]:
    """Grids of what comes into each unit, for each of its bits, from one pass.

    Args:
        model: whole.
        images: (N, C, H, W).
        units: of `units_of`.
        bits: by unit, one or more.
        kind: see `quantize`.
        clip: see `quantize`.
        attention_weights: see `quantize`.

    Returns:
        By unit and in the order of its bits: grids of channels, of a tensor, or of both operands.
    """
    percentiles = MIN_MAX if kind == "min-max" else PERCENTILES
    found: dict[str, list[Grid]] = {}

    def reader(unit: Unit) -> Any:
        layers: list[Any] = [model.get_submodule(name) for name in unit.layers]

        def read(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            (x,) = inputs
            if unit.name in found:  # called twice: the first call tells
                return
            if unit.norm is None or kind == "min-max":
                found[unit.name] = [
                    UniformQuantizer(a, percentiles=percentiles).calibrate(x) for _, a in bits[unit.name]
                ]
                return
            shares = (0.0,) if kind == "reparameterised" else clip
            found[unit.name] = [
                channel_grids(x, layers, [w] * len(layers), a, clip=shares) for w, a in bits[unit.name]
            ]

        return read

    products = {unit.product: unit.name for unit in units if unit.product is not None}

    def operands(name: str, product: Product, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        unit = products.get((name, product))
        if unit is not None:
            grid = "uniform" if product == "scores" or kind == "min-max" else attention_weights
            found[unit] = [
                (
                    _operand_grid(first, a, grid, percentiles),
                    _operand_grid(second, a, "uniform", percentiles),
                )
                for _, a in bits[unit]
            ]
        return first, second

    with ExitStack() as stack:
        for unit in units:
            if unit.layers:
                handle = model.get_submodule(unit.layers[0]).register_forward_pre_hook(reader(unit))
                stack.callback(handle.remove)
        names = list(dict.fromkeys(name for name, _ in products))
        stack.enter_context(products_met(model, names, operands))
        model(images)
    if missing := [unit.name for unit in units if unit.name not in found]:
        raise ValueError(
            f"{', '.join(missing)}: not called in a pass, so that nothing is known of its inputs"
        )
    return found


def _operand_grid(
    x: Tensor, bits: int, kind: AttentionWeights, percentiles: Sequence[float]
) -> UniformQuantizer | LogSqrt2Quantizer:
    made: list[UniformQuantizer | LogSqrt2Quantizer] = []
    if kind != "log-sqrt2":
        made.append(UniformQuantizer(bits, percentiles=percentiles).calibrate(x))
    if kind != "uniform":
        made.append(LogSqrt2Quantizer(bits).calibrate(x))
    return min(made, key=lambda grid: float((grid(x) - x).square().sum()) if len(made) > 1 else 0.0)


def _grid_name(grid: Any) -> WeightsGrid:
    return "log-sqrt2" if isinstance(grid[0], LogSqrt2Quantizer) else "uniform"


@contextmanager
def only_at(model: nn.Module, unit: Unit, bits: Bits, grid: Grid) -> Iterator[None]:
    """One unit on grids inside, all others whole: what it does to the outputs is its sensitivity."""
    if unit.product is not None:
        wanted = unit.product

        def operands(name: str, product: Product, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
            if (name, product) != wanted or not isinstance(grid, tuple):
                return first, second
            return grid[0](first), grid[1](second)

        with products_met(model, [wanted[0]], operands):
            yield
        return
    kept, handles = {}, []
    for name in unit.layers:
        layer: Any = model.get_submodule(name)
        kept[name] = layer.weight.data
        scale, zero = weight_grid(layer.weight.data, bits[0], PERCENTILES, together=False)
        along = (-1, *[1] * (layer.weight.ndim - 1))
        layer.weight.data = uniform(layer.weight.data, scale.view(along), zero.view(along), bits[0])
        handles.append(layer.register_forward_pre_hook(_input_on(grid, bits[1])))
    try:
        yield
    finally:
        for name, weight in kept.items():
            model.get_submodule(name).weight.data = weight  # type: ignore[union-attr]
        for handle in handles:
            handle.remove()


def _input_on(grid: Grid, bits: int) -> Any:
    def put(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        (x,) = inputs
        if isinstance(grid, ChannelGrids):
            return (uniform(x, grid.scale, grid.zero_point, bits),)
        assert isinstance(grid, UniformQuantizer)
        return (grid(x),)

    return put


@torch.no_grad()
def logits_kl(whole: nn.Module, other: nn.Module, images: Tensor) -> float:
    """Mean Kullback-Leibler divergence of another model's probabilities from those of the whole one."""
    wanted, made = (model(images).log_softmax(dim=-1) for model in (whole, other))
    return float(F.kl_div(made, wanted, log_target=True, reduction="batchmean"))


def _fill_product(attention: Any, product: Product, grid: Any) -> None:
    first, second = grid
    for operand, each in zip(
        ("query", "key") if product == "scores" else ("weights", "value"), (first, second), strict=True
    ):
        getattr(attention, f"{operand}_scale").copy_(each.scale)
        if isinstance(each, UniformQuantizer):
            getattr(attention, f"{operand}_zero").copy_(each.zero_point)


def _row(unit: Unit, bits: Bits, grid: Any, inputs: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": unit.name,
        "layers": list(unit.layers),
        "role": unit.role,
        "parameters": unit.parameters,
        "macs": unit.macs,
        "weight_bits": bits[0] if unit.layers else None,
        "activation_bits": bits[1],
        "packed_bytes": packed_size(unit.parameters, bits[0]) if unit.layers else 0,
    }
    if unit.product is not None:
        first, second = grid
        row |= {"grid": _grid_name(grid)} if unit.product[1] == "mixing" else {}
        row |= {"scale": [float(first.scale), float(second.scale)]}
        row |= {"zero_point": [float(getattr(each, "zero_point", torch.zeros(()))) for each in grid]}
    else:
        scale, zero = inputs[unit.layers[0]]
        row |= {"scale": float(scale), "zero_point": float(zero)}
    row["scaled_norm"] = unit.norm if isinstance(grid, ChannelGrids) else None
    row["clipped"] = grid.clipped if isinstance(grid, ChannelGrids) else 0.0
    return row
