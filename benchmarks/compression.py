"""Accuracy against time on this CPU: every compressor on vision transformers trained here, at 224 px.

    python benchmarks/compression.py train --data ../shared/data      # the whole models, once
    python benchmarks/compression.py compress --data ../shared/data   # each method, each target, once
    python benchmarks/compression.py measure --write                  # all of them in turn, in one run

PneumoniaMNIST (validation images) and a subset of CIFAR-10 (test images), enlarged to 224 px; a ViT of
width 192 with 6 blocks. Models are kept in `--out`; what is there is not made again. `compress` also tells
the accuracy of what others have at hand: torchao's plain 8 bits, where torchao is installed, and timm's patch
dropout. `measure` times all sets and models that are there, and keeps docs/evidence/compression.md and its
plot.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "2")  # before the libraries that read it
os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # as `import foveal` before torch sets it

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from timm.layers import PatchDropout
from torch import Tensor

from foveal.compression.costs import Costs, Runtime, folder_costs
from foveal.compression.run import REPORT, CompressSettings, compress
from foveal.files import write_atomically
from foveal.machine import describe_environment, seconds_of
from foveal.markdown import table
from foveal.metrics.discrimination import discrimination_intervals
from foveal.models import Classifier, ClassifierConfig
from foveal.objectives.classification_settings import ClassificationSettings
from foveal.scans.labelled_images import read_labelled_images
from foveal.training.classification import class_probabilities, train_classifier
from foveal.training.labelled_samples import LabelledSamples

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
KEPT = 0.65  # of the patches, by timm
MARKERS = "osD^v"  # of the models of one method
COLOURS = {
    "evit": "#0072b2", "lpvit": "#d55e00", "lrp-qvit": "#009e73", "sparse-then-prune": "#cc79a7",
    "int8": "#e69f00", "torchao": "#56b4e9", "timm": "#999999",
}  # fmt: skip
OTHERS = "others.json"  # scores of what others have at hand, beside the models of a set


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


class PatchesDropped(Classifier):
    """A classifier of which timm drops random patches before the first block, as it does in training."""

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__(config)
        backbone: Any = self.encoder.backbone
        backbone.patch_drop = PatchDropout(1 - KEPT, num_prefix_tokens=backbone.num_prefix_tokens)

    def train(self, mode: bool = True) -> PatchesDropped:
        """Patches are dropped in both modes."""
        super().train(mode)
        self.encoder.backbone.patch_drop.train()  # type: ignore[union-attr, operator]
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Logits; what is left of the patches lies on no grid."""
        backbone: Any = self.encoder.backbone
        tokens = backbone.forward_features((images - self.mean) / self.std)
        return self.head(backbone.forward_head(tokens, pre_logits=True))


def torchao_model(folder: Path) -> Classifier:
    """Linear layers in torchao's plain 8 bits: dynamic activations, without compiling."""
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    model = Classifier.from_pretrained(folder)
    quantize_(model, Int8DynamicActivationInt8WeightConfig())
    return model


def timm_model(folder: Path) -> Classifier:
    """See `PatchesDropped`."""
    whole = Classifier.from_pretrained(folder)
    model = PatchesDropped(whole.config)
    model.load_state_dict(whole.state_dict())
    return model.eval()


BY_OTHERS: dict[str, Callable[[Path], Classifier]] = {
    "torchao-8bit": torchao_model,
    f"timm-patch-dropout-{round(100 * KEPT)}": timm_model,
}


def score_others(data: Path, out: Path, names: list[str], methods: list[str]) -> None:
    """Accuracy of what others have at hand, without tuning, where it is not known yet."""
    for name in names:
        base, kept = out / name / "whole" / "model", out / name / OTHERS
        told = json.loads(kept.read_text()) if kept.is_file() else {}
        for label, make in BY_OTHERS.items():
            if label in told or label.split("-")[0] not in methods:
                continue
            try:
                model = make(base)
            except ImportError as error:
                print(name, label, "left out:", error, flush=True)
                continue
            images, channels = read_labelled_images(data / SETS[name][0]), model.encoder.in_channels
            split = images.splits["test" if "test" in images.splits else "val"]
            loaded = split.load(size=model.config.size, channels=channels)
            samples = LabelledSamples(loaded, size=model.config.size, channels=channels)
            torch.manual_seed(0)
            found = discrimination_intervals(
                class_probabilities(model, samples), loaded.split.labels, patients=loaded.split.patients
            )
            told[label] = {key: list(value) for key, value in found._asdict().items()}
            write_atomically(kept, json.dumps(told, indent=1) + "\n")
            print(name, label, told[label]["accuracy"], flush=True)


def costs_of_others(folder: Path, labels: list[str], images: Tensor, whole: Costs) -> dict[str, Costs]:
    """Times of what others have at hand, in turn with the whole model and told by its costs."""
    models = {label: BY_OTHERS[label](folder) for label in labels}
    runs = {"whole": Classifier.from_pretrained(folder), **models}
    with torch.inference_mode():
        one, many = (
            seconds_of({label: partial(run, batch) for label, run in runs.items()}, rounds=2)
            for batch in (images[:1], images)
        )
    return {
        label: replace(
            whole,
            parameters=0, bytes=0, macs=None, memory=None,
            latency=whole.latency * one[label] / one["whole"],
            throughput=whole.throughput * many["whole"] / many[label],
        )
        for label in labels
    }  # fmt: skip


def measure(out: Path, names: list[str], *, rounds: int, write: bool) -> None:
    """Time all models of a data set in turn, in one run, and tell them with their accuracy."""
    parts, plots = [], []
    for name in names:
        base = out / name / "whole" / "model"
        told = {
            folder.name: json.loads((folder / REPORT).read_text())
            for folder in (sorted((out / name).iterdir()) if base.is_dir() else [])
            if (folder / REPORT).is_file()
        }
        if not told:
            print(name, "left out: nothing was compressed", flush=True)
            continue
        folders: dict[str, tuple[str | Path, Runtime]] = {"whole": (base, "torch")}
        for label, report in told.items():
            runtime: Runtime = "torch" if "after" in report["costs"] else "onnx"
            folders[label] = (out / name / label, runtime)
        config = Classifier.from_pretrained(base).config
        images = torch.rand(BATCH, len(config.mean), config.size, config.size)
        costs = folder_costs(folders, images, rounds=rounds)
        scores = {"whole": next(iter(told.values()))["scores"]["before"]}
        scores |= {label: list(report["scores"].values())[-1] for label, report in told.items()}
        by_others = out / name / OTHERS
        if by_others.is_file():
            others = json.loads(by_others.read_text())
            scores |= others
            costs |= costs_of_others(base, list(others), images, costs["whole"])
        shown = table(list(HEAD), rows_of(costs, scores))
        missing = [each.name for run in RUNS if not (each := place(out, name, *run)).is_dir()]
        parts += [f"## {name}, {next(iter(told.values()))['images']} images", shown]
        parts += [f"Not run: {', '.join(missing)}."] if missing else []
        plots.append((name, costs, scores))
        print(shown, flush=True)
    if write:
        write_atomically(PAGE.with_suffix(".svg"), partial(drawn(plots).savefig, format="svg"))
        write_atomically(PAGE, page(parts, [name for name, *_ in plots]).encode())


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
                "" if cost.memory is None else f"{cost.memory / 2**20:.0f}",
                f"{cost.bytes / 1e6:.2f}" if cost.bytes else "",
                f"{cost.parameters / 1e6:.2f}" if cost.parameters else "",
                "" if cost.macs is None else f"{cost.macs / 1e9:.2f}",
            ]
        )  # fmt: skip
    return rows


def drawn(plots: list[tuple[str, dict[str, Costs], dict[str, Any]]]) -> Figure:
    """Accuracy over the time of an image, one panel a data set."""
    figure = Figure(figsize=(9, 4.2 * len(plots)), layout="constrained")
    panels = figure.subplots(len(plots), 1, squeeze=False)[:, 0]
    for panel, (name, costs, scores) in zip(panels, plots, strict=True):
        seen: dict[str, int] = {}
        for label in costs:
            cost, (value, low, high) = costs[label], scores[label]["accuracy"]
            method = next((m for m in COLOURS if label.startswith(m)), "")
            marker = MARKERS[seen.setdefault(method, 0)]
            seen[method] += 1
            panel.errorbar(
                1e3 / cost.throughput, value, [[value - low], [high - value]], fmt=marker, label=label,
                color=COLOURS.get(method, "black"), capsize=2, markersize=6, elinewidth=0.7,
            )  # fmt: skip
        panel.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8, frameon=False)
        panel.set(title=name, xlabel=f"ms an image, {BATCH} at a time", ylabel="accuracy", xscale="log")
        panel.xaxis.set_major_formatter("{x:g}")
        panel.xaxis.set_minor_locator(LogLocator(subs=(2, 3, 5)))
        panel.xaxis.set_minor_formatter("{x:g}")
        panel.margins(x=0.08, y=0.1)
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
        "torchao-8bit are torchao's dynamic activations and 8-bit weights, without compiling; its times are "
        "taken in turn with the whole model's. timm (1.0) has no merging and no pruning of tokens, and of "
        "weights only convolutional networks that were pruned before: what it has is patch dropout, which "
        f"drops random patches in training, here {1 - KEPT:.0%} of them when classifying, untuned.",
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
        score_others(options.data, options.out, options.sets, options.methods)
    else:
        measure(options.out, options.sets, rounds=options.rounds, write=options.write)


if __name__ == "__main__":
    main()
