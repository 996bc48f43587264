"""Every sequence operator of the registry: time, memory, operations, growth, crossovers and errors.

    python benchmarks/sequence_operators.py [--sizes 64 196 784 ...] [--seconds 0.5] [--write]

All operators have width 192. The whole range of sizes is measured at batch 1 on one thread, forward, with
the backward pass and token by token; the peak memory of fresh processes at three sizes, batch 4 and two
threads at two. Attention is measured fused and with its scores laid out. A pass at one size takes at most
about `--seconds` with its repeats: above it there are fewer repeats, which the table tells, and an operator
whose single pass takes longer ends there. All of it takes about six minutes on a quiet core. `--write` keeps
the page, the plots and their data in docs/evidence.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from foveal.blocks.sequence_operators import OPERATORS
from foveal.evaluation.sequence_costs import SIZES, Cost, SequenceReport, measure_sequence_operators
from foveal.evaluation.sequence_numerics import Deviation, deviation_table, measure_deviations
from foveal.evaluation.sequence_pages import cost_figure, declaration_table
from foveal.files import write_atomically

EVIDENCE = Path(__file__).parents[1] / "docs" / "evidence"
DIM = 192
FEW = (1024, 4096)  # sizes at batch 4 and on two threads
REMEMBERED = (1024, 4096, 16384)  # sizes whose memory is taken
LONGEST_LOOP = 1024  # tokens of the loop in 64 bits, which takes milliseconds each
LAID_OUT = "attention, scores laid out"
NAMED = (
    ("time", ("forward", "both", "step")),
    ("memory", ("kept_bytes", "forward_bytes", "both_bytes")),
)


def tell(cost: Cost) -> None:
    """Print one line as soon as a cost is known."""
    middle = sorted(cost.forward)[len(cost.forward) // 2] * 1e3
    print(
        f"{cost.operator} L={cost.tokens} B={cost.batch} threads={cost.threads}: {middle:.1f} ms", flush=True
    )


def measure(sizes: tuple[int, ...], seconds: float, processes: int) -> tuple[SequenceReport, SequenceReport]:
    """The report over all sizes, and that of batch 4 and two threads at few sizes."""
    ops = list(OPERATORS)
    quick: dict[str, Any] = {"most_seconds": seconds, "on_cost": tell}
    memory: dict[str, Any] = {"memory_repeats": processes, "memory_sizes": REMEMBERED}
    one = measure_sequence_operators(ops, sizes, [DIM], **memory, **quick)
    laid_out = measure_sequence_operators(
        ["attention"],
        sizes,
        [DIM],
        settings={"attention": {"fused": False}},
        passes=("forward", "both"),
        **memory,
        **quick,
    )
    named = tuple(replace(cost, operator=LAID_OUT) for cost in laid_out.costs)
    few = [size for size in FEW if size in sizes]
    more = [
        measure_sequence_operators(
            ops, few, [DIM], batches=[batch], threads=[threads], passes=("forward", "both"), **quick
        )
        for batch, threads in ((4, 1), (1, 2), (4, 2))
        if few
    ]
    others = tuple(cost for report in more for cost in report.costs)
    return (
        SequenceReport(one.costs + named, one.environment),
        SequenceReport(others, one.environment | {"torch threads": "1, 2"}),
    )


def page(one: SequenceReport, more: SequenceReport, errors: list[Deviation], seconds: float) -> str:
    """The page of evidence."""
    parts = [
        "# Sequence operators",
        f"Written by `python benchmarks/sequence_operators.py --write` in {seconds / 60:.1f} minutes. "
        f"Width {DIM}, 32 bits. **These results hold for this machine only.**",
        "Times are medians in milliseconds, in brackets the interquartile range and the number of repeats. "
        "*Kept* is what autograd saves, counted; *adds* is the peak of a fresh process above what it held "
        "when idle, which also holds what kernels keep to themselves. Operations, parameters, time and "
        "memory are four things: none follows from another.",
        "## Growth over tokens",
        "Slopes of log cost over log L from 1024 tokens on, times below 5 ms left out, and the length from "
        "which an operator is faster than fused attention, with its 95 % interval over resampled repeats.",
        one.growth(),
        *(f"![{what} over tokens](sequence-operators-{what}.svg)" for what, _ in NAMED),
        "## Operators and their costs in symbols",
        "L tokens, width D, state N, h heads of d channels, rank R, K taps, chunks of T tokens; a "
        "multiply-add is two operations. Inference keeps the numbers of the last column between tokens.",
        declaration_table(list(OPERATORS)),
        "## Errors in 32 bits",
        "Largest absolute error over the largest absolute value, beside a loop over tokens in 64 bits.",
        deviation_table(errors),
        "## All costs, batch 1, one thread",
        one.table(),
        "## Batch 4, and two threads",
        more.table(),
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--seconds", type=float, default=0.5, help="of one pass at one size with its repeats")
    parser.add_argument(
        "--processes", type=int, default=1, help="fresh processes a pass and size, for memory"
    )
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    begun = time.perf_counter()
    sizes = tuple(options.sizes)
    one, more = measure(sizes, options.seconds, options.processes)
    errors = measure_deviations(list(OPERATORS), [size for size in sizes if size <= LONGEST_LOOP], dim=64)
    text = page(one, more, errors, time.perf_counter() - begun)
    print(text)
    if options.write:
        for what, measures in NAMED:
            write_atomically(
                EVIDENCE / f"sequence-operators-{what}.svg",
                cost_figure(one, measures=measures),  # type: ignore[arg-type]
            )
        write_atomically(EVIDENCE / "sequence-operators.json", one.to_json() + "\n")
        write_atomically(EVIDENCE / "sequence-operators.md", text)


if __name__ == "__main__":
    main()
