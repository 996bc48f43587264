"""What mixers of sequences cost over the number of tokens: time, kept memory, operations, crossover."""

from __future__ import annotations

import gc
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from foveal.blocks.sequence_operators import create_operator, operator_kind

Pass = Literal["forward", "both", "step"]
SIZES = (64, 196, 784, 1024, 3136, 4096, 8192, 16384)
# Shorter times are mostly the overhead of calls, and are left out of the fit of growth.
LEAST_SECONDS = 5e-3


@dataclass(frozen=True)
class Cost:
    """Of one operator at one size.

    Attributes:
        operator: its name in the registry, or as it was given.
        dim: width D.
        tokens: L.
        batch: sequences at once.
        parameters: numbers that are trained.
        flops: of a forward pass over the batch, by formula.
        forward: seconds of each repeat; `both` with the backward pass; `step` one token after L, empty where
            there is no step.
        kept_bytes: what autograd keeps for the backward pass, each storage once, without the weights.
    """

    operator: str
    dim: int
    tokens: int
    batch: int
    parameters: int
    flops: int
    forward: tuple[float, ...]
    both: tuple[float, ...]
    step: tuple[float, ...]
    kept_bytes: int


@dataclass(frozen=True)
class SequenceReport:
    """All costs of one run, on one machine; they hold for that machine only."""

    costs: tuple[Cost, ...]
    environment: Mapping[str, str]

    def table(self) -> str:
        """A Markdown table: medians with the interquartile range, memory, operations and parameters."""
        head = ["operator", "D", "L", "batch", "forward, ms", "with backward, ms", "step, ms", "kept, MiB",
                "GFLOP", "parameters"]  # fmt: skip
        rows = [
            [c.operator, str(c.dim), str(c.tokens), str(c.batch), *map(_told, (c.forward, c.both, c.step)),
             f"{c.kept_bytes / 2**20:.1f}", f"{c.flops / 1e9:.3g}", str(c.parameters)]
            for c in self.costs
        ]  # fmt: skip
        lines = [" | ".join(row) for row in (head, ["---"] * len(head), *rows)]
        where = "; ".join(f"{name}: {value}" for name, value in self.environment.items())
        return "\n".join(f"| {line} |" for line in lines) + f"\n\nThis machine only: {where}."

    def exponents(
        self, *, of: Pass | Literal["kept_bytes", "flops"] = "forward", least_tokens: int = 1000
    ) -> dict[str, float]:
        """Slope of log cost over log L from `least_tokens` on, by operator (at the first width and batch).

        Times below 5 ms are left out; NaN where fewer than two sizes remain.
        """
        return {name: _slope(self._curve(name, of), of, least_tokens) for name in self._names()}

    def crossover(
        self, first: str, second: str, *, of: Pass = "forward", resamples: int = 500, seed: int = 0
    ) -> tuple[float, float, float]:
        """The L from which `second` is faster than `first`, and its 95 % interval over resampled repeats.

        Between sizes both are straight in log-log; NaN where they do not cross between the sizes.

        Raises:
            ValueError: an operator that was not measured.
        """
        curves = [self._curve(name, of) for name in (first, second)]
        if not all(curves):
            raise ValueError(f"{first!r} or {second!r} was not measured; allowed: {', '.join(self._names())}")
        draws = np.random.default_rng(seed)
        found = [
            _crossing(*({n: np.median(draws.choice(t, len(t))) for n, t in c.items()} for c in curves))
            for _ in range(resamples)
        ]
        known = [value for value in found if np.isfinite(value)]
        low, high = np.quantile(known, [0.025, 0.975]) if known else (np.nan, np.nan)
        return _crossing(*({n: np.median(t) for n, t in c.items()} for c in curves)), float(low), float(high)

    def to_json(self) -> str:
        """Costs, exponents and machine; the data of a plot."""
        return json.dumps(
            {
                "environment": dict(self.environment),
                "costs": [asdict(c) for c in self.costs],
                "exponents": {of: {k: None if np.isnan(v) else v for k, v in self.exponents(of=of).items()}
                              for of in ("forward", "both", "kept_bytes", "flops")},
            }, indent=1,
        )  # fmt: skip

    def _names(self) -> list[str]:
        return list(dict.fromkeys(c.operator for c in self.costs))

    def _curve(self, name: str, of: str) -> dict[int, tuple[float, ...]]:
        mine = [c for c in self.costs if c.operator == name]
        mine = [c for c in mine if (c.dim, c.batch) == (mine[0].dim, mine[0].batch)]
        values = {c.tokens: getattr(c, of) for c in mine}
        return {n: v if isinstance(v, tuple) else (float(v),) for n, v in sorted(values.items()) if v}


def measure_sequence_operators(
    ops: Sequence[str],
    sizes: Sequence[int] = SIZES,
    dims: Sequence[int] = (192,),
    *,
    batches: Sequence[int] = (1,),
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    threads: int = 1,
    warm_ups: int = 3,
    repeats: int = 7,
    passes: Sequence[Pass] = ("forward", "both", "step"),
    device: str = "cpu",
) -> SequenceReport:
    """Measure operators of the registry at each size, width and batch, in turn within one process.

    Args:
        ops: names in `foveal.blocks.sequence_operators.OPERATORS`.
        sizes: numbers of tokens L.
        dims: widths D.
        batches: sequences at once.
        settings: of the operators, by name.
        threads: that torch and the compiled kernels use meanwhile.
        warm_ups: passes that are not counted.
        repeats: passes that are; their median is told.
        passes: what to time.
        device: to measure on.

    Raises:
        ValueError: an unknown operator, or no token, repeat or thread.
    """
    for name in ops:
        operator_kind(name)
    for what, values in {"sizes": sizes, "dims": dims, "batches": batches, "repeats": [repeats]}.items():
        if not values or min(values) < 1:
            raise ValueError(f"{what}={list(values)}; allowed: whole numbers, 1 or more")
    costs = []
    with pinned_threads(threads):
        for dim in dims:
            for name in ops:
                op = create_operator(name, dim, **(settings or {}).get(name, {})).to(device)
                for batch in batches:
                    for tokens in sizes:
                        x = torch.randn(batch, tokens, dim, device=device)
                        costs.append(_measure(name, op, x, warm_ups, repeats, passes))
    machine = {"machine": platform.processor() or platform.machine(), "cores": str(os.cpu_count()),
               "threads": str(threads), "device": device, "torch": torch.__version__,
               "python": platform.python_version()}  # fmt: skip
    return SequenceReport(tuple(costs), machine)


@contextmanager
def pinned_threads(count: int) -> Iterator[None]:
    """Compute on `count` threads, with denormal numbers taken as 0, which slow decaying states on a CPU.

    Raises:
        ValueError: fewer than one thread.
    """
    if count < 1:
        raise ValueError(f"threads={count}; allowed: 1 or more")
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        torch.set_flush_denormal(False)


def kept_bytes(run: Callable[[], Any], *, but: Sequence[Tensor] = ()) -> int:
    """Bytes that autograd keeps of a computation, each storage once, but for those of the tensors `but`."""
    storages: dict[int, int] = {}
    alive = []  # a freed storage's address may be given again

    def pack(tensor: Tensor) -> Tensor:
        alive.append(tensor)
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        made = run()
    for tensor in but:
        storages.pop(tensor.untyped_storage().data_ptr(), None)
    del made
    return sum(storages.values())


def _measure(name: str, op: Any, x: Tensor, warm_ups: int, repeats: int, passes: Sequence[Pass]) -> Cost:
    weights, kind = list(op.parameters()), operator_kind(name)

    def forward() -> None:
        with torch.inference_mode():
            op(x)

    def both() -> None:
        torch.autograd.grad(op(x)[0].sum(), weights)

    def seconds(run: Callable[[], object]) -> tuple[float, ...]:
        taken = []
        for turn in range(warm_ups + repeats):
            begun = time.perf_counter()
            run()
            if x.is_cuda:
                torch.cuda.synchronize()
            if turn >= warm_ups:
                taken.append(time.perf_counter() - begun)
        return tuple(taken)

    times: dict[str, tuple[float, ...]] = {"forward": (), "both": (), "step": ()}
    gc.collect()
    if "forward" in passes:
        times["forward"] = seconds(forward)
    if "both" in passes:
        times["both"] = seconds(both)
    if "step" in passes and kind.has_step:
        with torch.no_grad():
            _, state = op(x)
            times["step"] = seconds(lambda: op.step(x[:, -1], state))
    return Cost(
        name, x.shape[2], x.shape[1], x.shape[0], sum(w.numel() for w in weights),
        x.shape[0] * kind.flops(op, x.shape[1]), **times, kept_bytes=kept_bytes(lambda: op(x), but=weights),
    )  # fmt: skip


def _slope(curve: Mapping[int, Sequence[float]], of: str, least_tokens: int) -> float:
    points = {n: statistics.median(v) for n, v in curve.items() if n >= least_tokens}
    if of in ("forward", "both", "step"):
        points = {n: v for n, v in points.items() if v >= LEAST_SECONDS}
    if len(points) < 2:
        return float("nan")
    return float(np.polyfit(np.log(list(points)), np.log(list(points.values())), 1)[0])


def _crossing(first: Mapping[int, float], second: Mapping[int, float]) -> float:
    sizes = sorted(first.keys() & second.keys())
    ratio = [float(np.log(first[n] / second[n])) for n in sizes]
    for k in range(len(sizes) - 1, 0, -1):
        if ratio[k - 1] <= 0 < ratio[k]:
            share = -ratio[k - 1] / (ratio[k] - ratio[k - 1])
            return float(np.exp((1 - share) * np.log(sizes[k - 1]) + share * np.log(sizes[k])))
    return float("nan")


def _told(times: Sequence[float]) -> str:
    if not times:
        return ""
    low, high = np.quantile(times, [0.25, 0.75])
    return f"{statistics.median(times) * 1e3:.2f} ({(high - low) * 1e3:.2f})"
