"""The selective scan beside every public implementation that runs on a CPU, and beside its own floor.

    python benchmarks/selective_scan.py [--threads 2] [--repeats 15] [--write]

All take the same tensors in one run: mambapy's parallel scan, the loop of transformers' slow path without its
convolution and projections, a loop over tokens in torch, and foveal's kernel. The floor is
what the exponentials of one pass (two with the backward pass, which computes decays again) and one reading
and writing of the tensors cost on this machine, each measured by a kernel that does nothing else; the time
over the floor says how much a better kernel could still gain. foveal's passes and those of the floor take
turns, and the least time of each counts. Memory is what autograd keeps, by its own count. `--write` keeps
the table and the plot in docs/evidence.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import foveal  # noqa: F401  # isort: skip  (before torch: it sets how torch's threads wait)

import matplotlib as mpl
import numpy as np
import torch
from mambapy.pscan import pscan
from matplotlib.figure import Figure
from numba import njit
from torch import Tensor
from torch.nn import functional as F

from foveal.evaluation.figure_style import COLOURS, LOG_STYLE, figure_svg
from foveal.evaluation.sequence_costs import kept_bytes
from foveal.files import write_atomically
from foveal.kernels.fast_exp import exp2
from foveal.kernels.selective_scan import ScanInput, reference_scan, selective_scan
from foveal.kernels.threads import on_threads
from foveal.machine import describe_environment, keep_freed_memory, seconds_of
from foveal.markdown import table

EVIDENCE = Path(__file__).parents[1] / "docs" / "evidence"
LENGTHS = (196, 784, 1024, 4096, 6084)
BATCH, CHANNELS, STATES = 4, 384, 16
GOAL = 1024  # the length at which the goals are stated
SLOW = 2000  # tokens from which the slow implementations are left out of a quick look


@dataclass(frozen=True)
class Times:
    """Least seconds of one implementation at one length, and the bytes that autograd keeps."""

    name: str
    length: int
    forward: float
    both: float
    kept: int


def tensors(length: int) -> list[Tensor]:
    """u, dt, A, B, C, D of a scan as an untrained Mamba has them."""
    source = torch.Generator().manual_seed(0)
    u, raw = torch.randn(2, BATCH, length, CHANNELS, generator=source)
    B, C = torch.randn(2, BATCH, length, STATES, generator=source)
    A = -torch.arange(1.0, STATES + 1).repeat(CHANNELS, 1)
    return [x.requires_grad_() for x in (u, raw - 3, A, B, C, torch.ones(CHANNELS))]


def by_pscan(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """mambapy's way: decays and inputs of all tokens at once, then its parallel scan."""
    d = F.softplus(dt)
    decays, inputs = torch.exp(d[..., None] * A), d[..., None] * B[:, :, None] * u[..., None]
    states = pscan(decays, inputs)
    return (states @ C[..., None]).squeeze(3) + D * u


def by_transformers(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """The slow path of transformers' MambaMixer: discretised at once, then a loop over tokens.

    Tokens are unbound here; transformers takes them by index, whose gradient is as long as the sequence each.
    """
    d = F.softplus(dt)
    decays, inputs = torch.exp(d[..., None] * A), d[..., None] * B[:, :, None] * u[..., None]
    state, outputs = torch.zeros_like(inputs[:, 0]), []
    for decay, own, read in zip(decays.unbind(1), inputs.unbind(1), C.unbind(1), strict=True):
        state = decay * state + own
        outputs.append((state @ read[..., None])[..., 0])
    return torch.stack(outputs, dim=1) + u * D


def by_loop(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """The recurrence as it is written, nothing computed before its token comes."""
    return reference_scan(
        ScanInput(u, dt, A, B[:, :, None], C[:, :, None], D, None, None, None, None, softplus=True)
    )[0]


WAYS: dict[str, Callable[..., Tensor]] = {
    "foveal": selective_scan,
    "torch loop": by_loop,
    "transformers, slow path": by_transformers,
    "mambapy pscan": by_pscan,
}


@njit(nogil=True, fastmath={"reassoc", "contract", "nsz", "arcp"}, error_model="numpy")
def _exponentials(items, steps, rates, out):  # type: ignore[no-untyped-def]
    for item in range(items.shape[0]):
        row = out[items[item, 0]]
        for n in range(rates.shape[0]):
            for j in range(row.size):
                row[j] += exp2(steps[j] * rates[n, j])


def floor_work(length: int) -> dict[str, Callable[[], object]]:
    """The exponentials of a pass alone, and the reading of two tensors and writing of one alone."""
    rows = BATCH * length
    steps = np.random.default_rng(0).random(CHANNELS, dtype=np.float32)
    rates, sums = -np.ones((STATES, CHANNELS), np.float32), np.zeros((rows, CHANNELS), np.float32)
    items = np.arange(rows)[:, None]
    moved = [torch.randn(rows, CHANNELS) for _ in range(3)]
    return {
        "exponentials": lambda: on_threads(lambda some: _exponentials(some, steps, rates, sums), items),
        "copies": lambda: torch.add(moved[0], moved[1], out=moved[2]),
    }


def passes_of(name: str, length: int) -> dict[str, Callable[[], object]]:
    """Both passes of one implementation at one length."""
    way, given = WAYS[name], tensors(length)

    def forward() -> None:
        with torch.inference_mode():
            way(*given)

    def both() -> None:
        for tensor in given:
            tensor.grad = None
        way(*given).sum().backward()

    return {"forward": forward, "both": both}


def measure(length: int, repeats: int) -> tuple[list[Times], tuple[float, float]]:
    """Times of all implementations at one length, and the floors of the forward and of both passes."""
    least = {"foveal": seconds_of(passes_of("foveal", length) | floor_work(length), rounds=repeats)}
    once, moved = least["foveal"]["exponentials"], least["foveal"]["copies"]
    for name in list(WAYS)[1:] if length <= SLOW else []:
        least[name] = seconds_of(passes_of(name, length), rounds=2)
    times = []
    for name, seconds in least.items():
        given = tensors(length)
        kept = kept_bytes(partial(WAYS[name], *given))
        times.append(Times(name, length, seconds["forward"], seconds["both"], kept))
    # forward: u and dt in, y out; backward: u, dt and the gradient of y in, those of u and dt out
    return times, (once + moved, 2 * once + 3 * moved)


def rows_of(times: list[Times], floors: dict[int, tuple[float, float]]) -> Iterator[list[str]]:
    """A row of the table for each length and implementation."""
    for length in sorted({t.length for t in times}):
        here = {t.name: t for t in times if t.length == length}
        ours = here["foveal"]
        for t in here.values():
            yield [
                f"{length}",
                t.name,
                f"{t.forward * 1e3:.1f}",
                f"{t.both * 1e3:.1f}",
                f"{t.forward / ours.forward:.1f}x" if t is not ours else "1",
                f"{t.both / ours.both:.1f}x" if t is not ours else "1",
                f"{t.kept / 2**20:.0f}",
            ]
        first, second = floors[length]
        yield [
            f"{length}", "floor", f"{first * 1e3:.1f}", f"{second * 1e3:.1f}",
            f"{ours.forward / first:.2f} above", f"{ours.both / second:.2f} above", "",
        ]  # fmt: skip


def plot(times: list[Times]) -> bytes:
    """Time over tokens, forward and with the backward pass, both axes logarithmic."""
    with mpl.rc_context(LOG_STYLE):
        figure = Figure(figsize=(7.2, 3.0), layout="constrained")
        axes = figure.subplots(1, 2, sharey=True)
        for name, colour in zip(WAYS, COLOURS[1:], strict=False):
            mine = sorted((t for t in times if t.name == name), key=lambda t: t.length)
            for axis, value in zip(axes, ("forward", "both"), strict=True):
                seconds = [getattr(t, value) for t in mine]
                axis.loglog([t.length for t in mine], seconds, "o-", color=colour, label=name, markersize=3)
        for axis, title in zip(axes, ("forward", "forward and backward"), strict=True):
            axis.set(title=title, xlabel="tokens")
            shown = sorted({t.length for t in times} - {784})  # too near to the next to be written
            axis.set_xticks(shown, [str(length) for length in shown], rotation=45)
            axis.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
        axes[0].set_ylabel("seconds")
        axes[0].legend(frameon=False)
        return figure_svg(figure)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--lengths", type=int, nargs="*", default=LENGTHS)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    keep_freed_memory()  # as the commands do
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    times: list[Times] = []
    floors = {}
    for length in options.lengths:
        found, floors[length] = measure(length, options.repeats)
        times += found
        print(*found, sep="\n", flush=True)
    head = [
        "tokens",
        "implementation",
        "forward, ms",
        "with backward, ms",
        "forward",
        "with backward",
        "kept, MiB",
    ]
    rows = list(rows_of(times, floors))
    text = table(head, rows)
    print(text)
    if options.write:
        write_atomically(EVIDENCE / "selective-scan.svg", plot(times))
        write_atomically(EVIDENCE / "selective-scan.md", page(text, times, floors, options.threads))


def page(text: str, times: list[Times], floors: dict[int, tuple[float, float]], threads: int) -> str:
    """The page of evidence."""
    parts = [
        "# Selective scan on a CPU",
        f"Written by `python benchmarks/selective_scan.py --write`. Batch {BATCH}, {CHANNELS} channels, "
        f"{STATES} states, 32 bits, {threads} threads. A ratio is the time of that implementation over "
        "foveal's in this run, least times; beside the floor it is foveal's time over the floor, whose parts "
        "took turns with it. Slow implementations are timed up to 1024 tokens.",
    ]
    here = {t.name: t for t in times if t.length == GOAL}
    if here:
        best = (
            min(t.forward for n, t in here.items() if n != "foveal"),
            min(t.both for n, t in here.items() if n != "foveal"),
        )
        ours = here["foveal"]
        first, second = floors[GOAL]
        goals = [
            ("forward, times faster than the best other", 8, best[0] / ours.forward, True),
            ("forward and backward, times faster than the best other", 8, best[1] / ours.both, True),
            ("forward over its floor", 2, ours.forward / first, False),
            ("forward and backward over their floor", 2, ours.both / second, False),
        ]
        parts.append(f"## Goals at {GOAL} tokens")
        parts.append(
            table(
                ["", "goal", "measured", "met"],
                [
                    [
                        what,
                        f"{'>=' if up else '<='} {goal}",
                        f"{value:.2f}",
                        "yes" if (value >= goal) == up else "**no**",
                    ]
                    for what, goal, value, up in goals
                ],
            )
        )
    parts += ["## All lengths", text, "![time over tokens](selective-scan.svg)", "## How it was run"]
    parts.append(table(["", ""], [[k, v] for k, v in describe_environment().items()]))
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    main()
