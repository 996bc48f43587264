"""The page of `encoder_learning.py`: one table a task, means and spread over seeds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from encoder_learning_entries import FULL_RESNET, WRAPPERS
from foveal.files import write_atomically

ROWS = Path("docs/evidence/encoders-learning.jsonl")
PAGE = Path("docs/evidence/encoders-learning.md")
Row = dict[str, Any]

TITLES = {
    "pneumonia": "PneumoniaMNIST",
    "cifar": "CIFAR-10, a subset",
    "vessels": "Vessels of CHASE_DB1",
}
FIGURES = {
    "pneumonia": ("auc", "accuracy", "balanced_accuracy"),
    "cifar": ("accuracy", "auc"),
    "vessels": ("dice", "auc"),
}
TEXTS = {
    "pneumonia": (
        "4708 training images, 524 validation images; grey, 28 px brought to 32 px. Scores are of the "
        "VALIDATION images: the test images are not at hand. 8 training images are among the validation "
        "images, as published. For comparison, MedMNIST's paper has for ResNet-18 at 28 px, 100 epochs, "
        "11.2 million parameters, on the TEST images: AUC 0.944, accuracy 0.854. Other images, so the two "
        "are no like-for-like comparison."
    ),
    "cifar": (
        "5000 training images, 1000 test images of ten classes, 32 px, decoded from a JPEG copy: figures "
        "are not those of CIFAR-10."
    ),
    "vessels": (
        "Photographs of four children to learn from (8), of three others to be scored on (6), the field of "
        "view at 320 px, a U-Net decoder on the encoder's pyramid, BCE + Dice; parameters are those of both. "
        "VM-UNet is a network of its own, with the multi-head scans of MHS-VM or with SS2D; all of it is "
        "about as large as the other encoders alone. With its skips one stage lower, as its released code "
        'is remembered to add them (`skip="released"`), it learned nothing in these steps: Dice 0.000, AUC '
        "0.513 with SS2D and 0.530 with the multi-head scans. Encoders whose pyramid has one level, a plain "
        "grid of patches, are not here. At this size the thinnest vessels are below a pixel."
    ),
}


def write_page(rows: Sequence[Row], path: Path) -> Path:
    """Write the page of all rows.

    Raises:
        ValueError: there is no row.
    """
    if not rows:
        raise ValueError("no row to write about; train first")
    parts = [
        "# What encoders learn in few steps",
        "",
        "Written by `benchmarks/encoder_learning.py --write`. All encoders have about equal size (the "
        "width is chosen for it; the head or decoder is not counted), the same images, steps, batch, "
        "optimiser (AdamW, weight decay 0.05, warm-up, cosine) and one learning rate for all, without "
        "augmentation or pretraining. Such short trainings of small models tell that an encoder learns and"
        " how fast it starts; they do not rank the papers' models, which are a hundred times larger and "
        "trained for days. Differences within the spread mean nothing.",
        "",
        "± is the standard deviation over seeds. Times are not told, as trainings run beside others; what "
        "encoders cost is in [encoders-cost.md](encoders-cost.md).",
        "",
    ]
    for task in TITLES:
        chosen = [row for row in rows if row["task"] == task]
        if chosen:
            parts += _section(task, chosen)
    wrappers = "; ".join(f"`{name}` {what}" for name, what in WRAPPERS.items())
    parts += [f"Not in the tables, as they have no weights of their own: {wrappers}.", ""]
    write_atomically(path, "\n".join(parts))
    return path


def _section(task: str, rows: list[Row]) -> list[str]:
    conditions = sorted(
        {(r["steps"], r["batch_size"], r["parameters"], r["learning_rate"]) for r in rows}, reverse=True
    )
    parts = [f"## {TITLES[task]}", "", TEXTS[task], ""]
    for condition in conditions:
        steps, batch, size, rate = condition
        these = [
            row
            for row in rows
            if (row["steps"], row["batch_size"], row["parameters"], row["learning_rate"]) == condition
        ]
        parts += [
            f"{steps} steps of {batch}, encoders of about {size / 1e6:.2g} M parameters, "
            f"learning rate {rate:g}.",
            "",
            *_table(task, these),
            "",
        ]
    return parts


def _table(task: str, rows: list[Row]) -> list[str]:
    figures = FIGURES[task]
    grouped: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if figures[0] in row:
            grouped[row["encoder"]].append(row)
    ranked = sorted(grouped.items(), key=lambda item: -fmean(row[figures[0]] for row in item[1]))
    lines = [
        "| encoder | parameters | " + " | ".join(f.replace("_", " ") for f in figures) + " | seeds |",
        "| --- " * (3 + len(figures)) + "|",
    ]
    for name, group in ranked:
        shown = f"`{name}`" if name != FULL_RESNET else "`timm/resnet18` (full size)"
        size = f"{group[0]['size'] / 1e6:.2f} M"
        cells = [_spread([row[figure] for row in group]) for figure in figures]
        lines.append(f"| {shown} | {size} | {' | '.join(cells)} | {len(group)} |")
    failed = {row["encoder"]: row["error"] for row in rows if "error" in row}
    for name, error in failed.items():
        lines += ["", f"`{name}` failed: {error}"]
    return lines


def _spread(values: list[float]) -> str:
    return f"{fmean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")
