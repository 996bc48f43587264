"""How many bits each layer gets: by what goes through it, under a budget (LRP-QViT, arXiv 2401.11243)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from foveal.blocks.quantized_numbers import packed_size
from foveal.compression.allocation import Option, allocate
from foveal.compression.calibration import CLIP_SHARES
from foveal.compression.layer_relevance import LayerRelevance, Measure, layer_relevance
from foveal.compression.methods import Material, Outcome, Target, register_compressor
from foveal.compression.quantizing import (
    AttentionWeights,
    Bits,
    Kind,
    Unit,
    observed,
    only_at,
    quantize,
    uniform_bits,
    units_of,
)
from foveal.models.classifier import Classifier
from foveal.settings import unknown_name

Utility = Literal["linear", "concave", "joint"]
Budget = Literal["bits", "size", "bitops", "size and bitops"]
UTILITIES: tuple[Utility, ...] = ("linear", "concave", "joint")
BUDGETS: tuple[Budget, ...] = ("bits", "size", "bitops", "size and bitops")


def candidates_of(bits: float) -> list[int]:
    """Widths that a layer may get: up to two more or fewer than the target, from 2 to 8.

    Raises:
        ValueError: a target beyond all of them.
    """
    if not 2 <= bits <= 8:
        raise ValueError(f"a mean of {bits:g} bits; allowed: 2 to 8")
    middle = round(bits)
    return [b for b in range(middle - 2, middle + 3) if 2 <= b <= 8]


def unit_contributions(
    units: Sequence[Unit], relevance: LayerRelevance, measure: Measure = "share"
) -> dict[str, float]:
    """Omega of each unit, summing to 1: that of its layers together."""
    of = relevance.contributions(measure)
    found = {
        unit.name: sum(of[name] for name in unit.layers) if unit.layers else of[unit.name] for unit in units
    }
    total = sum(found.values())
    return {name: value / total for name, value in found.items()}


def allocate_bits(
    units: Sequence[Unit],
    contributions: Mapping[str, float],
    bits: float,
    *,
    utility: Utility = "linear",
    budget: Budget = "bits",
    separate: bool = False,
    candidates: Sequence[int] | None = None,
    sensitivity: Mapping[str, Mapping[int, float]] | None = None,
) -> dict[str, Bits]:
    """Bits of weights and inputs of each unit: the most utility that the budget of uniform bits allows.

    Args:
        units: of `units_of`; the fixed ones get 8 bits and are no part of the budget.
        contributions: Omega of each.
        bits: the mean.
        utility: "linear", Omega b, which makes most layers either narrow or wide; "concave",
            Omega (1 - 4^-b), by the error that goes with b; "joint", -Omega times the sensitivity at b bits.
        budget: "bits", the mean over weights and the mean over inputs; "size", that over weights; "bitops",
            operations times both widths, no more than with uniform bits; or "size and bitops".
        separate: weights and inputs of a unit may have different widths.
        candidates: widths; None takes those of `candidates_of`.
        sensitivity: by unit and bits, for "joint".

    Raises:
        ValueError: an unknown utility or budget, no sensitivities for "joint", or a budget below what the
            narrowest widths take; tells the least mean and size.
    """
    if utility not in UTILITIES:
        raise ValueError(unknown_name("utility", utility, UTILITIES))
    if budget not in BUDGETS:
        raise ValueError(unknown_name("budget", budget, BUDGETS))
    if utility == "joint" and sensitivity is None:
        raise ValueError("the joint utility needs sensitivities of the units; see sensitivities()")
    widths = sorted(candidates_of(bits) if candidates is None else candidates)
    free = [unit for unit in units if not unit.fixed]
    parameters = sum(unit.parameters for unit in free)
    if bits < widths[0]:
        raise ValueError(
            f"a mean of {bits:g} bits ({packed_size(parameters, 1) * bits / 1e6:.3g} MB of weights) is below "
            f"the least: {widths[0]} bits, {packed_size(parameters, widths[0]) / 1e6:.3g} MB; allow narrower "
            "candidates or a larger budget"
        )

    def gain(unit: Unit, width: int) -> float:
        omega = contributions[unit.name]
        if utility == "linear":
            return omega * width
        if utility == "concave":
            return omega * (1 - 4.0**-width)
        assert sensitivity is not None
        return -omega * sensitivity[unit.name][width]

    limits = _costs(budget, parameters, sum(u.elements for u in free), sum(u.macs for u in free), bits, bits)
    choices: dict[str, list[Bits]] = {}
    options: dict[str, list[Option]] = {}
    for unit in free:
        pairs = [(w, a) for w in widths for a in widths if w == a or (separate and unit.layers)]
        choices[unit.name] = pairs
        options[unit.name] = [
            Option(
                (gain(unit, w) + gain(unit, a)) / 2,
                _costs(budget, unit.parameters, unit.elements, unit.macs, w, a),
            )
            for w, a in pairs
        ]
    chosen = allocate(options, limits)
    return {unit.name: (8, 8) if unit.fixed else choices[unit.name][chosen[unit.name]] for unit in units}


def _costs(
    budget: Budget, parameters: float, elements: float, macs: float, w: float, a: float
) -> tuple[float, ...]:
    costs = {
        "bits": (parameters * w, elements * a),
        "size": (parameters * w,),
        "bitops": (macs * w * a,),
        "size and bitops": (parameters * w, macs * w * a),
    }
    return tuple(float(cost) for cost in costs[budget])


def mean_bits(units: Sequence[Unit], bits: Mapping[str, Bits]) -> tuple[float, float]:
    """Mean width of the weights, and of the inputs, of units that are not fixed."""
    free = [unit for unit in units if not unit.fixed]
    weights = sum(unit.parameters * bits[unit.name][0] for unit in free)
    inputs = sum(unit.elements * bits[unit.name][1] for unit in free)
    return weights / sum(u.parameters for u in free), inputs / sum(u.elements for u in free)


def bit_operations(units: Sequence[Unit], bits: Mapping[str, Bits]) -> int:
    """BitOps of an image: multiplications and additions times both widths."""
    return sum(
        unit.macs * (bits[unit.name][0] if unit.layers else bits[unit.name][1]) * bits[unit.name][1]
        for unit in units
    )


@torch.no_grad()
def sensitivities(
    model: nn.Module, images: Tensor, units: Sequence[Unit], widths: Sequence[int]
) -> dict[str, dict[int, float]]:
    """How far a model's probabilities move, as divergence, where one unit alone has few bits (Mix-QViT).

    Args:
        model: whole, in evaluation mode.
        images: (N, C, H, W).
        units: of `units_of`.
        widths: bits of weights and inputs that are tried.
    """
    free = [unit for unit in units if not unit.fixed]
    wanted = {unit.name: [(width, width) for width in widths] for unit in free}
    grids = observed(model, images, free, wanted, clip=(0.0,))
    whole = model(images).log_softmax(dim=-1)
    found: dict[str, dict[int, float]] = {}
    for unit in free:
        found[unit.name] = {}
        for width, grid in zip(widths, grids[unit.name], strict=True):
            with only_at(model, unit, (width, width), grid):
                made = model(images).log_softmax(dim=-1)
            found[unit.name][width] = float((whole.exp() * (whole - made)).sum(dim=-1).mean())
    return found


@dataclass(frozen=True)
class Quantized:
    """What was done to a model.

    Attributes:
        units: that got bits.
        bits: of weights and inputs, by unit.
        rows: one for each unit, JSON values.
        mixed: bits were allotted by relevance; else the same for all.
    """

    units: list[Unit]
    bits: dict[str, Bits]
    rows: list[dict[str, Any]]
    mixed: bool


def quantize_mixed(
    model: nn.Module,
    images: Tensor,
    mean: float,
    *,
    mixed: bool = True,
    utility: Utility = "concave",
    budget: Budget = "bits",
    separate: bool = False,
    quantizer: Kind = "clipped",
    calibration: int = 32,
    measure: Measure = "share",
    rules: str = "chefer",
    products: bool = True,
    clip: Sequence[float] = CLIP_SHARES,
    attention_weights: AttentionWeights = "log-sqrt2",
) -> Quantized:
    """Allot bits by relevance and put a model on its grids, in place.

    Args:
        model: a trained transformer from images to logits, in evaluation mode.
        images: (N, C, H, W), all for relevance, the first `calibration` for ranges.
        mean: bits.
        mixed: by relevance; else the same for all.
        utility, budget, separate: see `allocate_bits`.
        quantizer, clip, attention_weights: see `quantize`.
        calibration: images that tell ranges.
        measure: see `LayerRelevance.contributions`.
        rules: see `layer_relevance`.
        products: those of attention get few bits, too.

    Raises:
        ValueError: a mean that is out of reach, or a model that does not suit; tells the module.
        NotImplementedError: no relevance rule for an operation; tells it and its module.
    """
    widths = candidates_of(mean)
    if not mixed and mean != int(mean):
        raise ValueError(f"uniform bits are whole numbers, not {mean:g}; take mixed=True")
    few = images[:calibration]
    units = units_of(model, few, products=products)
    omega: dict[str, float] = {}
    if mixed:
        layers = [name for unit in units for name in unit.layers]
        relevance = layer_relevance(model, images, rules=rules, layers=layers, products=products)
        omega = unit_contributions(units, relevance, measure)
        bits = allocate_bits(
            units,
            omega,
            mean,
            utility=utility,
            budget=budget,
            separate=separate,
            sensitivity=sensitivities(model, few, units, widths) if utility == "joint" else None,
        )
    else:
        bits = uniform_bits(units, int(mean))
    rows = quantize(model, few, units, bits, kind=quantizer, clip=clip, attention_weights=attention_weights)
    for row in rows:
        row["contribution"] = omega.get(row["name"])
    return Quantized(units, bits, rows, mixed)


@register_compressor("lrp-qvit", "bits", behind=quantize_mixed)
def lrp_qvit(model: Classifier, material: Material, target: Target, **options: Any) -> Outcome:
    """Weights and inputs of 2 to 8 bits, more for layers through which more of the relevance goes.

    Options: see `quantize_mixed`. The paper's utility is "linear", of the measure "size": it makes layers as
    wide or as narrow as they may be, and is the worse one in our evidence.
    """
    done = quantize_mixed(model, material.images, target.value, **options)
    operations = bit_operations(done.units, done.bits) / (32 * 32 * sum(unit.macs for unit in done.units))
    weights, inputs = mean_bits(done.units, done.bits)
    return Outcome(
        f"Weights of {weights:.2f} and inputs of {inputs:.2f} bits in the mean, the first and the last layer "
        f"of 8, {'allotted by relevance' if done.mixed else 'the same for all'}; {operations:.1%} of the bit "
        "operations of 32 bits. The numbers on their grids are computed in floats: the file is small, the "
        "model not faster.",
        layers=done.rows,
    )
