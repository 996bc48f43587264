"""What mixers of sequences cost over the number of tokens: time, kept memory, operations, crossover."""

from __future__ import annotations

import gc
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from foveal.blocks.sequence_operators import create_operator, operator_kind
from foveal.machine import added_memory, describe_environment
from foveal.markdown import table

Pass = Literal["forward", "both", "step"]
Measure = Literal["forward", "both", "step", "kept_bytes", "forward_bytes", "both_bytes", "flops"]
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
        threads: that computed.
        parameters: numbers that are trained.
        flops: of a forward pass over the batch, by formula.
        forward: seconds of each repeat; `both` with the backward pass; `step` one token after L, empty where
            there is no step.
        kept_bytes: what autograd keeps for the backward pass, each storage once, without the weights.
        forward_bytes: that a forward pass adds to a fresh process at most, each repeat; empty where not
            measured. It holds what kernels keep to themselves, and what libraries round up.
        both_bytes: the same with the backward pass.
    """

    operator: str
    dim: int
    tokens: int
    batch: int
    threads: int
    parameters: int
    flops: int
    forward: tuple[float, ...]
    both: tuple[float, ...]
    step: tuple[float, ...]
    kept_bytes: int
    forward_bytes: tuple[int, ...] = ()
    both_bytes: tuple[int, ...] = ()


@dataclass(frozen=True)
class SequenceReport:
    """All costs of one run, on one machine; they hold for that machine only."""

    costs: tuple[Cost, ...]
    environment: Mapping[str, str]

    def table(self) -> str:
        """A Markdown table: medians (interquartile range; repeats), memory, operations and parameters."""
        head = ["operator", "D", "L", "batch", "threads", "forward, ms", "with backward, ms", "step, ms",
                "kept, MiB", "forward adds, MiB", "with backward, MiB", "GFLOP", "parameters"]  # fmt: skip
        rows = [
            [c.operator, str(c.dim), str(c.tokens), str(c.batch), str(c.threads),
             *map(_told, (c.forward, c.both, c.step)), f"{c.kept_bytes / 2**20:.1f}",
             *(f"{statistics.median(b) / 2**20:.1f}" if b else "" for b in (c.forward_bytes, c.both_bytes)),
             f"{c.flops / 1e9:.3g}", str(c.parameters)]
            for c in self.costs
        ]  # fmt: skip
        where = "; ".join(f"{name}: {value}" for name, value in self.environment.items())
        return f"{table(head, rows)}\n\nThis machine only: {where}."

    def growth(self, *, reference: str = "attention") -> str:
        """A Markdown table of exponents, and of the L from which each is faster than `reference`."""
        head = ["operator", "forward", "with backward", "step", "kept", "added, with backward",
                f"forward faster than {reference} from L", "with backward from L"]  # fmt: skip
        kinds: tuple[Measure, ...] = ("forward", "both", "step", "kept_bytes", "both_bytes")
        fits = {of: self.exponents(of=of) for of in kinds}
        rows = []
        for name in self.operators:
            told = [self._overtakes(reference, name, of) for of in ("forward", "both")]
            rows.append([name, *(_number(fits[of][name]) for of in kinds), *told])
        return table(head, rows)

    def _overtakes(self, first: str, second: str, of: Literal["forward", "both"]) -> str:
        """From which L the second is faster than the first up to the longest, in words."""
        if first == second:
            return ""
        slow, fast = (
            {n: statistics.median(times) for n, times in self.curve(name, of).items()}
            for name in (first, second)
        )
        faster = [fast[n] < slow[n] for n in sorted(slow.keys() & fast.keys())]
        if not faster or all(faster) or not faster[-1]:
            return "" if not faster else "the shortest" if all(faster) else "not within these"
        middle, low, high = self.crossover(first, second, of=of)
        return f"{middle:.0f} ({low:.0f} to {high:.0f})"

    def exponents(self, *, of: Measure = "forward", least_tokens: int = 1000) -> dict[str, float]:
        """Slope of log cost over log L from `least_tokens` on, by operator.

        It is of the first width, batch and number of threads. Times below 5 ms are left out; NaN where fewer
        than two sizes remain.
        """
        return {name: _slope(self.curve(name, of), of, least_tokens) for name in self.operators}

    def crossover(
        self, first: str, second: str, *, of: Pass = "forward", resamples: int = 500, seed: int = 0
    ) -> tuple[float, float, float]:
        """The L from which `second` is faster than `first`, and its 95 % interval over resampled repeats.

        Between sizes both are straight in log-log; NaN where they do not cross between the sizes.

        Raises:
            ValueError: an operator that was not measured.
        """
        curves = [self.curve(name, of) for name in (first, second)]
        if not all(curves):
            raise ValueError(
                f"{first!r} or {second!r} was not measured; allowed: {', '.join(self.operators)}"
            )
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
                              for of in get_args(Measure)},
            }, indent=1,
        )  # fmt: skip

    @property
    def operators(self) -> list[str]:
        """Names of what was measured, in its order."""
        return list(dict.fromkeys(c.operator for c in self.costs))

    def curve(self, name: str, of: Measure) -> dict[int, tuple[float, ...]]:
        """Repeats of a measure by number of tokens, at the first width, batch and number of threads."""
        mine = [c for c in self.costs if c.operator == name]
        mine = [
            c for c in mine if (c.dim, c.batch, c.threads) == (mine[0].dim, mine[0].batch, mine[0].threads)
        ]
        values = {c.tokens: getattr(c, of) for c in mine}
        return {n: v if isinstance(v, tuple) else (float(v),) for n, v in sorted(values.items()) if v}


def measure_sequence_operators(
    ops: Sequence[str],
    sizes: Sequence[int] = SIZES,
    dims: Sequence[int] = (192,),
    *,
    batches: Sequence[int] = (1,),
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    threads: Sequence[int] = (1,),
    warm_ups: int = 3,
    repeats: int = 7,
    most_seconds: float = math.inf,
    memory_repeats: int = 0,
    memory_sizes: Sequence[int] | None = None,
    passes: Sequence[Pass] = ("forward", "both", "step"),
    device: str = "cpu",
    on_cost: Callable[[Cost], None] | None = None,
) -> SequenceReport:
    """Measure operators of the registry at each size, width and batch, in turn within one process.

    Args:
        ops: names in `foveal.blocks.sequence_operators.OPERATORS`.
        sizes: numbers of tokens L.
        dims: widths D.
        batches: sequences at once.
        settings: of the operators, by name.
        threads: numbers of threads, that torch and the compiled kernels use meanwhile.
        warm_ups: passes that are not counted.
        repeats: passes that are; their median is told.
        most_seconds: that one pass at one size should take with its repeats. Where it would take longer,
            there are fewer repeats, which the table tells; a pass that takes longer alone ends its sizes.
        memory_repeats: fresh processes for each size, batch and pass, whose peak memory is taken above what
            they hold when idle; on Linux and a CPU only, with the first number of threads.
        memory_sizes: of `sizes`, those whose memory is taken; None for all.
        passes: what to time.
        device: to measure on.
        on_cost: called with each cost as it is known.

    Raises:
        ValueError: an unknown operator, or no token, repeat or thread.
        OSError: memory of fresh processes on a system that does not tell it.
    """
    for name in ops:
        operator_kind(name)
    for what, values in {"sizes": sizes, "dims": dims, "batches": batches, "threads": threads,
                         "repeats": [repeats]}.items():  # fmt: skip
        if not values or min(values) < 1:
            raise ValueError(f"{what}={list(values)}; allowed: whole numbers, 1 or more")
    costs = []
    for count, dim, name in product(threads, dims, ops):
        gc.collect()
        with pinned_threads(count):
            chosen = (settings or {}).get(name, {})
            op = create_operator(name, dim, **chosen).to(device)
            op.output(torch.randn(1, 8, dim, device=device)).sum().backward()  # compiles what is compiled
            for batch in batches:
                clock = _Clock(warm_ups, repeats, most_seconds)
                for tokens in sorted(sizes):
                    if "forward" in clock.ended:
                        break
                    x = torch.randn(batch, tokens, dim, device=device)
                    cost = _measure(name, op, x, clock, passes, count)
                    remembered = memory_repeats and (memory_sizes is None or tokens in memory_sizes)
                    if remembered and count == threads[0] and device == "cpu":
                        found = {
                            f"{each}_bytes": tuple(
                                added_memory(_fresh_pass, each, name, dim, chosen, batch, tokens, count)
                                for _ in range(memory_repeats)
                            )
                            for each in ("forward", "both")
                            if each in passes and getattr(cost, each)
                        }
                        cost = replace(cost, **found)  # type: ignore[arg-type]
                    costs.append(cost)
                    if on_cost is not None:
                        on_cost(cost)
    machine = describe_environment() | {"device": device}
    machine["torch threads"] = ", ".join(map(str, threads))
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


class _Clock:
    """Times passes of one operator at growing sizes, within a limit of seconds for each."""

    def __init__(self, warm_ups: int, repeats: int, most_seconds: float) -> None:
        self.warm_ups, self.repeats, self.most_seconds = warm_ups, repeats, most_seconds
        self.ended: set[str] = set()

    def __call__(self, of: str, run: Callable[[], object], *, cuda: bool) -> tuple[float, ...]:
        if of in self.ended:
            return ()

        def once() -> float:
            begun = time.perf_counter()
            run()
            if cuda:
                torch.cuda.synchronize()
            return time.perf_counter() - begun

        first = once()
        if first > self.most_seconds:
            self.ended.add(of)
            return (first,)
        repeats = self.repeats
        if (self.warm_ups + repeats) * first > self.most_seconds:
            repeats = min(repeats, max(1, int(self.most_seconds / first) - 1))
        else:
            for _ in range(self.warm_ups - 1):
                once()
        return tuple(once() for _ in range(repeats))


def _passes(op: Any, x: Tensor) -> dict[str, Callable[[], object]]:
    """A forward pass without gradients, and one with the gradients of all weights."""
    weights = list(op.parameters())

    def forward() -> None:
        with torch.inference_mode():
            op.output(x)

    def both() -> None:
        torch.autograd.grad(op.output(x).sum(), weights)

    return {"forward": forward, "both": both}


def _fresh_pass(
    of: str, name: str, dim: int, settings: Mapping[str, Any], batch: int, tokens: int, threads: int
) -> Callable[[], object]:
    """What a fresh process runs; a pass of few tokens has loaded all libraries before."""
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    op = create_operator(name, dim, **settings)
    _passes(op, torch.randn(1, 64, dim))[of]()
    gc.collect()
    return _passes(op, torch.randn(batch, tokens, dim))[of]


def _measure(name: str, op: Any, x: Tensor, clock: _Clock, passes: Sequence[Pass], threads: int) -> Cost:
    weights, kind = list(op.parameters()), operator_kind(name)
    times: dict[str, tuple[float, ...]] = {"forward": (), "both": (), "step": ()}
    for of, run in _passes(op, x).items():
        if of in passes:
            times[of] = clock(of, run, cuda=x.is_cuda)
    if "step" in passes and kind.has_step:
        with torch.inference_mode():
            _, state = op(x)
            times["step"] = clock("step", lambda: op.step(x[:, -1], state), cuda=x.is_cuda)
    return Cost(
        name, x.shape[2], x.shape[1], x.shape[0], threads, sum(w.numel() for w in weights),
        x.shape[0] * kind.flops(op, x.shape[1]), times["forward"], times["both"], times["step"],
        kept_bytes=kept_bytes(lambda: op.output(x), but=weights),
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
    return f"{statistics.median(times) * 1e3:.2f} ({(high - low) * 1e3:.2f}; {len(times)})"


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.2f}"
