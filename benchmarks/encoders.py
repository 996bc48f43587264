"""Time and memory of every encoder over the number of tokens, beside a plain ViT of equal size.

    python benchmarks/encoders.py [--sides 96 224 448 640] [--write]

All encoders have about `--parameters` parameters and patches of 8 pixels (hierarchical ones their own
strides), and take one square RGB image; the ViT is timm's, with fused attention. Each is timed in one run,
in turn with the others, forward (no gradients) and forward with backward; a ratio above 1 says that the
encoder takes longer than the ViT. Memory is what a new process adds to itself at most. The exponent is the
slope of log time over log tokens between the two largest images. `--write` keeps the page and its plot in
docs/evidence.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import foveal  # noqa: F401  # isort: skip  (before torch: it sets how torch's threads wait)

import matplotlib as mpl
import torch
from matplotlib.figure import Figure

from encoder_learning_entries import RESNET, VIT, Entry, labels, sized
from foveal.evaluation.figure_style import COLOURS, LOG_STYLE, SOFT, figure_svg
from foveal.files import write_atomically
from foveal.machine import added_memory, describe_environment, keep_freed_memory, seconds_of
from foveal.markdown import table

EVIDENCE = Path(__file__).parents[1] / "docs" / "evidence"
PATCH = 8
SIDES = (96, 224, 448, 640)
MIB = 2**20


@dataclass(frozen=True)
class Cost:
    """Seconds and bytes of one encoder for one image of `side` pixels."""

    label: str
    side: int
    forward: float
    both: float
    forward_bytes: int
    both_bytes: int

    @property
    def tokens(self) -> int:
        return (self.side // PATCH) ** 2


def fitted(entry: Entry, side: int) -> Entry:
    """The entry for images of another side."""
    changes = {key: side for key in ("image_size", "img_size") if key in entry.settings}
    changes |= {key: PATCH for key in ("patch_size", "stride") if key in entry.settings}
    return Entry(entry.label, entry.name, entry.settings | changes)


def work(entry: Entry, side: int, backward: bool) -> Any:
    """What is timed: one image through the encoder."""
    torch.manual_seed(0)
    torch.set_flush_denormal(True)
    encoder, image = entry.make(3), torch.rand(1, 3, side, side)

    def forward() -> None:
        with torch.inference_mode():
            encoder(image)

    def both() -> None:
        encoder.zero_grad(set_to_none=True)
        encoder(image).pooled.square().mean().backward()

    return both if backward else forward


def limited_work(threads: int, entry: Entry, side: int, backward: bool) -> Any:
    """`work` on some threads; what a new process measures."""
    torch.set_num_threads(threads)
    return work(entry, side, backward)


def measure(entries: list[Entry], side: int, *, rounds: int, threads: int) -> list[Cost]:
    """Costs of all encoders for one size of image, taken in turn."""
    here = [fitted(entry, side) for entry in entries]
    forward = seconds_of({e.label: work(e, side, False) for e in here}, rounds=rounds)
    both = seconds_of({e.label: work(e, side, True) for e in here}, rounds=rounds)
    memory = partial(added_memory, limited_work, threads)
    return [
        Cost(e.label, side, forward[e.label], both[e.label], memory(e, side, False), memory(e, side, True))
        for e in here
    ]


def exponent(costs: list[Cost], name: str) -> float:
    """Slope of log time over log tokens between the two largest images."""
    small, large = sorted(costs, key=lambda c: c.side)[-2:]
    return math.log(getattr(large, name) / getattr(small, name)) / math.log(large.tokens / small.tokens)


def rows_of(costs: list[Cost], parameters: dict[str, int]) -> list[list[str]]:
    """A row for each encoder: ratios to the ViT at each size, exponents, memory at the largest."""
    vit = {cost.side: cost for cost in costs if cost.label == VIT}
    rows = []
    for label in parameters:
        mine = sorted((c for c in costs if c.label == label), key=lambda c: c.side)
        rows.append(
            [
                f"`{label}`",
                f"{parameters[label] / 1e6:.2f} M",
                *(
                    f"{c.forward * 1e3:.0f} ms ({c.forward / vit[c.side].forward:.2f}x), "
                    f"{c.both * 1e3:.0f} ms ({c.both / vit[c.side].both:.2f}x)"
                    for c in mine
                ),
                f"{exponent(mine, 'forward'):.2f}, {exponent(mine, 'both'):.2f}",
                f"{mine[-1].forward_bytes / MIB:.0f}, {mine[-1].both_bytes / MIB:.0f}",
            ]
        )
    return rows


def plot(costs: list[Cost], shown: list[str]) -> bytes:
    """Time of each encoder over the tokens; the ViT is drawn thick."""
    with mpl.rc_context(LOG_STYLE):
        figure = Figure(figsize=(7.4, 3.8), layout="constrained")
        axes = figure.subplots(1, 2, sharey=True)
        for number, label in enumerate(shown):
            mine = sorted((c for c in costs if c.label == label), key=lambda c: c.side)
            vit = label == VIT
            colour = SOFT if vit else COLOURS[1 + number % (len(COLOURS) - 1)]
            style = {"color": colour, "label": label, "linewidth": 2.6 if vit else 1.2, "markersize": 3}
            line = "o-" if number < len(COLOURS) - 1 else "s--"
            for axis, name in zip(axes, ("forward", "both"), strict=True):
                axis.loglog([c.tokens for c in mine], [getattr(c, name) for c in mine], line, **style)
        for axis, title in zip(axes, ("forward", "forward and backward"), strict=True):
            axis.set(title=title, xlabel="tokens of 8 x 8 px")
            tokens = sorted({cost.tokens for cost in costs})
            axis.set_xticks(tokens, [str(count) for count in tokens])
            axis.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
        axes[0].set_ylabel("seconds an image")
        axes[1].legend(frameon=False, fontsize=6.5, loc="center left", bbox_to_anchor=(1, 0.5))
        return figure_svg(figure)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sides", type=int, nargs="*", default=SIDES)
    parser.add_argument("--parameters", type=int, default=1_000_000)
    parser.add_argument("--encoders", nargs="*", help="by default all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    keep_freed_memory()  # as the commands do
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    wanted = options.encoders or [label for label in labels() if "full size" not in label]
    entries = [sized(label, options.parameters) for label in dict.fromkeys([*wanted, VIT, RESNET])]
    parameters = {e.label: sum(p.numel() for p in e.make(3).parameters()) for e in entries}
    costs: list[Cost] = []
    for side in options.sides:
        costs += measure(entries, side, rounds=options.rounds, threads=options.threads)
        print(f"{side} px done", flush=True)
    head = ["encoder", "parameters", *(f"{(s // PATCH) ** 2} tokens" for s in options.sides)]
    head += ["exponents", "MiB at the largest"]
    text = table(head, rows_of(costs, parameters))
    print(text)
    if options.write:
        write_atomically(EVIDENCE / "encoders-cost.svg", plot(costs, list(parameters)))
        parts = [
            "# What encoders cost over the number of tokens",
            "Written by `python benchmarks/encoders.py --write`. One RGB image, 32 bits; each cell: forward, "
            "then forward with backward; in brackets the ratio to the plain ViT of equal size in this run "
            "(below 1: faster). Exponents: growth of time between the two largest images, 1 is linear, 2 "
            "quadratic. Memory: what one pass adds to a process at most, forward, then with backward.",
            text,
            "![time over tokens](encoders-cost.svg)",
            "## How it was run",
            table(["", ""], [[k, v] for k, v in describe_environment().items()]),
        ]
        write_atomically(EVIDENCE / "encoders-cost.md", "\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
