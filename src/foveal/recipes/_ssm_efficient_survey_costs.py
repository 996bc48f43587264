"""What sequence operators cost: speed and memory of the scan, growth over tokens, steps, scan paths."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from foveal.blocks.mamba import MambaMixer
from foveal.blocks.multi_path import MultiPath
from foveal.blocks.sequence_operators import OPERATORS, create_operator
from foveal.evaluation.sequence_costs import kept_bytes, measure_sequence_operators, pinned_threads
from foveal.evaluation.sequence_numerics import deviation_table, measure_deviations
from foveal.evaluation.sequence_pages import declaration_table
from foveal.kernels.selective_scan import selective_scan
from foveal.machine import added_memory, seconds_of
from foveal.recipes.base import Finding, Section


def scan_tensors(batch: int, length: int, width: int, states: int = 16) -> list[Tensor]:
    """u, dt, A, B, C and D of a scan."""
    u, dt = torch.randn(2, batch, length, width)
    B, C = torch.randn(2, batch, length, states)
    A = -torch.arange(1.0, states + 1).repeat(width, 1)
    return [x.requires_grad_() for x in (u, dt - 3, A, B, C, torch.ones(width))]


def laid_out_scan(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """The (B, L, D, N) form: decays and inputs of all tokens at once, then a loop."""
    d = F.softplus(dt)
    decays, added = torch.exp(d[..., None] * A), d[..., None] * B[:, :, None] * u[..., None]
    state, out = torch.zeros_like(added[:, 0]), []
    for decay, own, read in zip(decays.unbind(1), added.unbind(1), C.unbind(1), strict=True):
        state = decay * state + own
        out.append((state * read[:, None]).sum(dim=-1))
    return torch.stack(out, dim=1) + D * u


def memory_of_the_scan() -> Finding:
    """The compiled scan keeps at most an eighth of the laid-out states' memory."""
    given = scan_tensors(1, 256, 64)
    share = kept_bytes(lambda: selective_scan(*given)) / kept_bytes(lambda: laid_out_scan(*given))
    return Finding.at_most(
        "bytes that autograd keeps of the compiled scan over those of the (B, L, D, N) form", share, 1 / 8
    )


@torch.no_grad()
def speed_of_the_scan() -> Finding:
    """The compiled scan is faster than a loop in torch."""
    given = scan_tensors(4, 1024, 384)
    ways = {name: partial(selective_scan, *given, backend=name) for name in ("compiled", "reference")}  # type: ignore[arg-type]
    taken = seconds_of(ways, rounds=3)
    return Finding.at_least(
        "(B, L, D, N) = (4, 1024, 384, 16), forward: time of the loop in torch over the compiled scan's",
        taken["reference"] / taken["compiled"],
        3.5,
    )


@torch.no_grad()
def short_sequences() -> Finding:
    """At 196 tokens attention is as fast as Mamba or faster."""
    x = torch.randn(1, 196, 192)
    ops = {name: create_operator(name, 192).eval() for name in ("attention", "mamba")}
    taken = seconds_of({name: partial(op.output, x) for name, op in ops.items()}, rounds=15)
    return Finding.at_most(
        "196 tokens, D = 192, forward: time of attention over Mamba's",
        taken["attention"] / taken["mamba"],
        1.1,
    )


def growth() -> Iterator[Finding | Section]:
    """Growth of time and memory from 1024 to 8192 tokens, and crossovers with attention."""
    linear = ("mamba", "mamba2", "s4d")
    report = measure_sequence_operators(
        ["attention", *linear],
        [256, 512, 1024, 2048, 4096, 8192],
        settings={"attention": {"fused": False}},
        passes=("forward",),
        most_seconds=40,
        memory_repeats=1,
    )
    laid_out = "attention with its scores laid out"
    for of, kind in (("forward", "time"), ("kept_bytes", "kept memory"), ("forward_bytes", "added memory")):
        found = report.exponents(of=of)  # type: ignore[arg-type]
        yield Finding.at_least(f"{laid_out}: exponent of {kind}", found["attention"], 1.7)
        for name in linear:
            yield Finding.close(f"{name}: exponent of {kind}", found[name], 1.025, tolerance=0.175)
    yield Section("Costs", f"{report.table()}\n\n{report.growth()}")


def scan_work(way: str, backward: bool) -> Callable[[], object]:
    """What a fresh process runs: one scan of 1024 tokens."""
    torch.set_num_threads(1)
    run = {"compiled": selective_scan, "laid out": laid_out_scan}[way]

    def work(given: list[Tensor]) -> None:
        with torch.set_grad_enabled(backward):
            y = run(*given)
        if backward:
            torch.autograd.grad(y.sum(), given)

    work(scan_tensors(1, 16, 384))  # loads all libraries
    return partial(work, scan_tensors(1, 1024, 384))


def memory_of_processes() -> Iterator[Finding]:
    """Peak memory of fresh processes, above what they hold when idle."""
    for backward, told in ((False, "forward"), (True, "forward and backward")):
        taken = {way: sorted(added_memory(scan_work, way, backward) for _ in range(3))[1]
                 for way in ("compiled", "laid out")}  # fmt: skip
        mib = ", ".join(f"{way} {size / 2**20:.0f} MiB" for way, size in taken.items())
        yield Finding.at_most(
            f"(1, 1024, 384, 16), {told}: memory that the compiled scan adds to a fresh process over that of "
            f"the (B, L, D, N) form ({mib})",
            taken["compiled"] / taken["laid out"],
            1 / 8,
        )


@torch.inference_mode()
def constant_steps() -> Iterator[Finding]:
    """A step costs the same however long the context is, but for attention."""
    token, grown = torch.randn(1, 192), {}
    with pinned_threads(1):
        for name, kind in OPERATORS.items():
            if kind.has_step:
                op = create_operator(name, 192)
                states = {length: op(torch.randn(1, length, 192))[1] for length in (256, 8192)}
                work = {str(length): partial(op.step, token, state) for length, state in states.items()}
                taken = seconds_of(work, rounds=40)
                grown[name] = taken["8192"] / taken["256"]
    attention = grown.pop("attention")
    worst = max(grown, key=grown.__getitem__)
    yield Finding.at_most(
        f"one more token after 8192 over after 256: largest of {len(grown)} operators ({worst})",
        grown[worst],
        1.25,
    )
    yield Finding.at_least("the same of attention, whose state grows", attention, 2)


@torch.no_grad()
def scan_paths() -> Finding:
    """Four paths of one mixer take four times as long as one."""
    x, mixer = torch.randn(1, 1024, 192), MambaMixer(192)
    orders = [torch.randperm(1024) for _ in range(4)]
    blocks = {str(count): MultiPath(mixer, 192, paths=orders[:count], fuse="mean") for count in (1, 4)}
    with pinned_threads(1):
        taken = seconds_of({name: partial(block, x) for name, block in blocks.items()})
    return Finding.close(
        "1024 tokens, D = 192: time of four scan paths over one", taken["4"] / taken["1"], 4.0, tolerance=1.0
    )


def numbers_in_32_bits() -> Iterator[Finding | Section]:
    """Errors of every backend in 32 bits beside a loop in 64 bits."""
    found = measure_deviations(list(OPERATORS), (64, 196, 784, 1024))
    worst = max(found, key=lambda d: max(d.errors.values()))
    yield Finding.at_most(
        f"32 bits beside a loop in 64 bits, up to 1024 tokens: largest relative error ({worst.name}, "
        f"{worst.backend})",
        max(worst.errors.values()),
        1e-3,
    )
    yield Section("Numbers in 32 bits", deviation_table(found))


def declarations() -> Section:
    """What each operator is, and the model of its costs."""
    return Section("Operators and their costs in symbols", declaration_table(list(OPERATORS)))
