"""Accuracy against time on this CPU: every compressor on vision transformers trained here, at 224 px.

    python benchmarks/compression.py train --data ../shared/data      # the whole models, once
    python benchmarks/compression.py compress --data ../shared/data   # each method, each target, once
    python benchmarks/compression.py measure --write                  # all of them in turn, in one run

PneumoniaMNIST (validation images) and a subset of CIFAR-10 (test images), enlarged to 224 px; a ViT of
width 192 with 6 blocks. Models are kept in `--out`; what is there is not made again. `measure` adds torchao's
plain 8 bits where torchao is installed, and keeps docs/evidence/compression.md and its plot.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "2")  # before the libraries that read it
os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # as `import foveal` before torch sets it

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from foveal.compression.costs import Costs, Runtime, folder_costs
from foveal.compression.run import REPORT, CompressSettings, compress
from foveal.files import write_atomically
from foveal.machine import describe_environment, seconds_of
from foveal.markdown import table
from foveal.models import Classifier, ClassifierConfig
from foveal.objectives.classification_settings import ClassificationSettings
from foveal.scans.labelled_images import read_labelled_images
from foveal.training.classification import train_classifier

PAGE = Path(__file__).parents[1] / "docs" / "evidence" / "compression.md"
SETS = {
    "pneumonia": ("pneumoniamnist/pneumoniamnist_trainval.npz", 300),
    "cifar": ("cifar10_subset/cifar10_subset.npz", 500),
}
VIT = {"image_size": 224, "embed_dim": 192, "depth": 6, "num_heads": 3}
BATCH = 8
RUNS: tuple[tuple[str, str, int], ...] = (  # method, target, steps of tuning
    ("evit", "65%", 0), ("evit", "65%", 100), ("evit", "50%", 100),
    ("lpvit", "70%", 0), ("lpvit", "50%", 0), ("lpvit", "50%", 100),
    ("lrp-qvit", "8bit", 0), ("lrp-qvit", "6bit", 0), ("lrp-qvit", "4bit", 0),
    ("sparse-then-prune", "70%", 0), ("sparse-then-prune", "50%", 0),
    ("int8", "8bit", 0),
)  # fmt: skip
COLOURS = {
    "evit": "#0072b2", "lpvit": "#d55e00", "lrp-qvit": "#009e73", "sparse-then-prune": "#cc79a7",
    "int8": "#e69f00",
}  # fmt: skip


def train(data: Path, out: Path, names: list[str]) -> None:
    """The whole models."""
    for name in names:
        file, steps = SETS[name]
        images = read_labelled_images(data / file)
        channels = 1 if name == "pneumonia" else 3
        config = ClassifierConfig(
            encoder="timm/vit_tiny_patch16_224",
            encoder_settings={**VIT, "in_channels": channels},
            classes=images.classes,
            size=VIT["image_size"],
        )
        training: dict[str, Any] = {
            "steps": steps, "batch_size": 24, "learning_rate": 7e-4, "weight_decay": 0.05,
            "warmup_fraction": 0.1, "evaluate_every": steps // 2, "checkpoint_every": 50,
        }  # fmt: skip
        settings = ClassificationSettings(training=training)
        trained = train_classifier(config, images, settings, out / name / "whole", progress=False)
        print(name, {split: scores.accuracy for split, scores in trained.scores.items()}, flush=True)


def place(out: Path, name: str, method: str, target: str, tune: int) -> Path:
    """Folder of one compressed model."""
    return out / name / f"{method}-{target.strip('%')}{f'-tuned-{tune}' if tune else ''}"


def compress_all(data: Path, out: Path, names: list[str], methods: list[str]) -> None:
    """Every run of the list that is not there yet; one that fails is told and the others go on."""
    for name in names:
        for method, target, tune in RUNS:
            folder = place(out, name, method, target, tune)
            if method not in methods or (folder / REPORT).is_file():
                continue
            settings = CompressSettings(
                tune=tune, rounds=1, memory=False, batch=BATCH, training={"batch_size": 24}
            )
            try:
                found = compress(
                    out / name / "whole" / "model",
                    data / SETS[name][0],
                    folder,
                    method=method,
                    target=target,
                    settings=settings,
                    progress=False,
                )
            except (ValueError, RuntimeError) as error:
                print(name, method, target, "failed:", error, flush=True)
            else:
                print(name, folder.name, {k: v.accuracy for k, v in found.scores.items()}, flush=True)


def torchao_seconds(folder: Path, images: Tensor) -> tuple[float, float] | None:
    """Seconds of a batch whole and in torchao's plain 8 bits; None where it is not installed."""
    try:
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_
    except ImportError:
        return None
    whole = Classifier.from_pretrained(folder)
    eight: nn.Module = copy.deepcopy(whole)
    quantize_(eight, Int8DynamicActivationInt8WeightConfig())
    with torch.inference_mode():
        times = seconds_of({"whole": partial(whole, images), "int8": partial(eight, images)}, rounds=1)
    return times["whole"], times["int8"]


def measure(out: Path, names: list[str], *, rounds: int, write: bool) -> None:
    """Time all models of a data set in turn, in one run, and tell them with their accuracy."""
    parts, plots = [], []
    for name in names:
        base = out / name / "whole" / "model"
        told = {
            folder.name: json.loads((folder / REPORT).read_text())
            for folder in sorted((out / name).iterdir())
            if (folder / REPORT).is_file()
        }
        folders: dict[str, tuple[str | Path, Runtime]] = {"whole": (base, "torch")}
        for label, report in told.items():
            runtime: Runtime = "torch" if "after" in report["costs"] else "onnx"
            folders[label] = (out / name / label, runtime)
        config = Classifier.from_pretrained(base).config
        images = torch.rand(BATCH, len(config.mean), config.size, config.size)
        costs = folder_costs(folders, images, rounds=rounds)
        scores = {"whole": next(iter(told.values()))["scores"]["before"]}
        scores |= {label: list(report["scores"].values())[-1] for label, report in told.items()}
        rows = rows_of(costs, scores)
        parts += [f"## {name}, {next(iter(told.values()))['images']} images", table(HEAD, rows)]
        spent = torchao_seconds(base, images)
        if spent is not None:
            parts.append(
                f"torchao's plain 8 bits (dynamic activations, without compiling): {spent[1] / spent[0]:.1f} "
                "times the whole model's time on this CPU."
            )
        plots.append((name, costs, scores))
        print(parts[-2], flush=True)
    if write:
        write_atomically(PAGE.with_suffix(".svg"), partial(drawn(plots).savefig, format="svg"))
        write_atomically(PAGE, page(parts, names).encode())


HEAD = (
    "model", "accuracy", "points lost", "latency ms", "speed-up", f"images a second, {BATCH} at a time",
    "speed-up of the batch", "memory MiB", "file MB", "weights, millions", "GMACs",
)  # fmt: skip


def rows_of(costs: dict[str, Costs], scores: dict[str, Any]) -> list[list[str]]:
    """Rows of a table, the whole model first."""
    whole = costs["whole"]
    rows = []
    for label, cost in costs.items():
        value, low, high = scores[label]["accuracy"]
        rows.append(
            [
                label, f"{value:.3f} ({low:.3f} to {high:.3f})",
                f"{100 * (scores['whole']['accuracy'][0] - value):.1f}", f"{1e3 * cost.latency:.1f}",
                f"{whole.latency / cost.latency:.2f}", f"{cost.throughput:.1f}",
                f"{cost.throughput / whole.throughput:.2f}",
                "" if cost.memory is None else f"{cost.memory / 2**20:.0f}", f"{cost.bytes / 1e6:.2f}",
                f"{cost.parameters / 1e6:.2f}", "" if cost.macs is None else f"{cost.macs / 1e9:.2f}",
            ]
        )  # fmt: skip
    return rows


def drawn(plots: list[tuple[str, dict[str, Costs], dict[str, Any]]]) -> Figure:
    """Accuracy over the time of an image, one panel a data set."""
    figure = Figure(figsize=(8 * len(plots), 5), layout="constrained")
    panels = figure.subplots(1, len(plots), squeeze=False)[0]
    for panel, (name, costs, scores) in zip(panels, plots, strict=True):
        by_time = sorted(costs, key=lambda label: -costs[label].throughput)
        for number, label in enumerate(by_time):  # every other name below, so that they lie apart
            cost, (value, low, high) = costs[label], scores[label]["accuracy"]
            method = next((m for m in COLOURS if label.startswith(m)), "")
            panel.errorbar(
                1e3 / cost.throughput, value, [[value - low], [high - value]], fmt="o" if method else "s",
                color=COLOURS.get(method, "black"), capsize=2, markersize=5, elinewidth=0.7,
            )  # fmt: skip
            above = number % 2 == 0
            panel.annotate(
                label, (1e3 / cost.throughput, high if above else low), (0, 3 if above else -3),
                textcoords="offset points", fontsize=7, rotation=60,
                ha="left" if above else "right", va="bottom" if above else "top",
            )  # fmt: skip
        panel.set(title=name, xlabel=f"ms an image, {BATCH} at a time", ylabel="accuracy", xscale="log")
        panel.xaxis.set_major_formatter("{x:g}")
        panel.xaxis.set_minor_formatter("{x:g}")
        panel.margins(x=0.08, y=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    return figure


def page(parts: list[str], names: list[str]) -> str:
    """The page of evidence."""
    width, depth = VIT["embed_dim"], VIT["depth"]
    steps = ", ".join(f"{SETS[name][1]} steps ({name})" for name in names)
    head = [
        "# Compressors: accuracy against time",
        "Written by `python benchmarks/compression.py measure --write` after its other two steps. A ViT of "
        f"width {width} with {depth} blocks at 224 px, trained for {steps} of 24 images; all models of a "
        f"set took turns in one run, {torch.get_num_threads()} threads. PneumoniaMNIST's images have 28 "
        "px and "
        "CIFAR's 32 px; they were enlarged. Names tell method, target and steps of tuning. Intervals are 95% "
        "bootstraps over images.",
        "![Accuracy over time](compression.svg)",
    ]
    tail = ["## How it was run", table(["", ""], [[k, v] for k, v in describe_environment().items()])]
    return "\n\n".join([*head, *parts, *tail]) + "\n"


def main() -> None:
    """One of the three steps."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("step", choices=("train", "compress", "measure"))
    parser.add_argument("--data", type=Path, help="folder of the data sets")
    parser.add_argument("--out", type=Path, default=Path("runs/compression"))
    parser.add_argument("--sets", nargs="*", default=list(SETS), choices=list(SETS))
    parser.add_argument("--methods", nargs="*", default=list(COLOURS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--write", action="store_true", help=f"keep {PAGE.name} and its plot")
    options = parser.parse_args()
    if options.step != "measure" and options.data is None:
        parser.error(f"{options.step} needs --data")
    if options.step == "train":
        train(options.data, options.out, options.sets)
    elif options.step == "compress":
        compress_all(options.data, options.out, options.sets, options.methods)
    else:
        measure(options.out, options.sets, rounds=options.rounds, write=options.write)


if __name__ == "__main__":
    main()
