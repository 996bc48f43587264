"""From a saved classifier to a smaller one: compress, tune, save, and tell what it cost."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from foveal.compression.costs import Costs, Runtime, folder_costs
from foveal.compression.methods import (
    Material,
    Outcome,
    Target,
    compress_model,
    find_compressor,
    parse_target,
)
from foveal.compression.onnx_models import ONNX, export_onnx
from foveal.files import write_atomically
from foveal.markdown import table
from foveal.metrics.discrimination import DiscriminationIntervals, discrimination_intervals
from foveal.models.classifier import Classifier
from foveal.models.pretrained import CARD, CONFIG, WEIGHTS, weights_hash
from foveal.objectives.base import Objective
from foveal.objectives.classification import ClassificationObjective
from foveal.objectives.distillation import DistillationObjective
from foveal.scans.labelled_images import read_labelled_images
from foveal.settings import Settings
from foveal.sparse_files import write_sparse
from foveal.training.classification import class_probabilities
from foveal.training.labelled_samples import ImageAugmentation, LabelledSamples
from foveal.training.loop import fit
from foveal.training.settings import TrainingSettings

if TYPE_CHECKING:
    from foveal.scans.labelled_images import Skipped

REPORT = "compression.json"


class CompressSettings(Settings):
    """How a classifier is compressed."""

    options: dict[str, Any] = Field(default_factory=dict, description="of the method")
    calibration: int = Field(256, ge=1, description="training images that the method may look at")
    tune: int = Field(0, ge=0, description="steps of training afterwards; 0 is none")
    training: dict[str, Any] = Field(default_factory=dict, description="of TrainingSettings, for tuning")
    augmentation: dict[str, Any] = Field(default_factory=dict, description="of ImageAugmentation, for tuning")
    teacher_share: float = Field(0.5, ge=0, le=1, description="of the whole model's logits in tuning's loss")
    temperature: float = Field(1.0, gt=0, description="of the whole model's logits")
    onnx: bool = Field(False, description="also write model.onnx")
    batch: int = Field(8, ge=1, description="images at a time, for throughput and memory")
    rounds: int = Field(7, ge=1, description="of timing")
    memory: bool = Field(True, description="measure the memory of a process")
    validation_fraction: float = Field(0.2, gt=0, lt=1, description="where the data has no validation split")
    seed: int = 0


@dataclass(frozen=True)
class Compressed:
    """A compressed classifier and how it compares.

    Attributes:
        folder: of the new model.
        outcome: of the method.
        scores: "before", "after" and, where there is one, "after, ONNX Runtime", over `split`.
        costs: of the same.
        split: "test" where the data has one, else "val".
        images: of it.
        skipped: images that could not be read.
    """

    folder: Path
    outcome: Outcome
    scores: dict[str, DiscriminationIntervals]
    costs: dict[str, Costs]
    split: str
    images: int
    skipped: tuple[Skipped, ...]


def compress(
    model: str | Path,
    data: str | Path,
    out: str | Path,
    *,
    method: str,
    target: str,
    settings: CompressSettings | None = None,
    progress: bool = True,
) -> Compressed:
    """Write a smaller classifier, with a card that tells before and after.

    Args:
        model: folder of a saved `Classifier`; it is only read.
        data: labelled images, as `foveal train` takes them; the training part calibrates and tunes, the test
            part (else the validation part) tells the accuracy.
        out: folder of the new model; empty or new.
        method: of `list_compressors`.
        target: such as "2x", "50%" or "6bit".
        settings: see `CompressSettings`.
        progress: show tuning.

    Raises:
        FileExistsError: `out` holds something.
        FileNotFoundError: there is no model or data.
        ValueError: an unknown method or option, a target that cannot be reached, data of other classes.
        ImportError: a package of an extra is missing; tells which.
    """
    settings, wanted = settings or CompressSettings(), parse_target(target)
    find_compressor(method)
    out = Path(out)
    if out.exists() and any(out.iterdir()):
        raise FileExistsError(f"{out} is not empty; name a new folder for the compressed model")
    before = Classifier.from_pretrained(model)
    samples, scored, split, skipped = _samples(before, data, settings)
    material = Material(samples, _some(samples, settings.calibration, settings.seed), settings.seed)
    after = deepcopy(before)
    torch.manual_seed(settings.seed)
    outcome = compress_model(method, after, material, wanted, settings.options)
    if settings.tune:
        _tune(after, before, outcome, samples, settings, out, progress=progress)
    if outcome.finish is not None:
        outcome.finish(after)
    after.eval().save_pretrained(out)
    if outcome.scattered:
        write_sparse(after, out / WEIGHTS)
    apart = None
    if settings.onnx or outcome.runtime == "onnx-int8":
        apart = export_onnx(after, out, material.images[:8], bits=8 if outcome.runtime == "onnx-int8" else 32)
    folders: dict[str, tuple[str | Path, Runtime]] = {"before": (model, "torch"), "after": (out, "torch")}
    if apart is not None:
        folders["after, ONNX Runtime"] = (out, "onnx")
    if outcome.runtime == "onnx-int8":
        del folders["after"]
    images = _some(samples, settings.batch, settings.seed)
    images = images.repeat(-(-settings.batch // len(images)), 1, 1, 1)[: settings.batch]
    costs = folder_costs(folders, images, rounds=settings.rounds, memory=settings.memory)
    scores = {name: _scores(folder, runtime, scored) for name, (folder, runtime) in folders.items()}
    found = Compressed(out, outcome, scores, costs, split, len(scored), skipped)
    _write(found, Path(model), method, wanted, settings, apart)
    return found


def compare_table(found: Compressed) -> str:
    """Before and after, Markdown."""
    rows = []
    for name, cost in found.costs.items():
        score = found.scores[name]
        rows.append(
            [
                name,
                *(
                    f"{value:.3f} ({low:.3f} to {high:.3f})"
                    for value, low, high in (score.auc, score.accuracy)
                ),
                f"{1e3 * cost.latency:.1f}",
                f"{cost.throughput:.1f}",
                "" if cost.memory is None else f"{cost.memory / 2**20:.0f}",
                f"{cost.bytes / 1e6:.2f}",
                f"{cost.parameters / 1e6:.2f}",
                "" if cost.macs is None else f"{cost.macs / 1e9:.3f}",
            ]
        )
    batch = next(iter(found.costs.values())).batch
    head = [
        "",
        "AUC",
        "accuracy",
        "latency of one image, ms",
        f"images a second, {batch} at a time",
        "memory, MiB",
        "file, MB",
        "weights, millions",
        "GMACs",
    ]
    return table(head, rows)


def _samples(
    model: Classifier, source: str | Path, settings: CompressSettings
) -> tuple[LabelledSamples, LabelledSamples, str, tuple[Skipped, ...]]:
    data = read_labelled_images(source).with_validation(settings.validation_fraction, seed=settings.seed)
    config = model.config
    if len(data.classes) != len(config.classes):
        raise ValueError(
            f"the model has {len(config.classes)} classes ({', '.join(config.classes)}), {data.source} has "
            f"{len(data.classes)}: {', '.join(data.classes)}"
        )
    if any(each.channels is not None for each in data.splits.values()):
        raise ValueError(f"images of {data.source} lack channels; allowed: images that have all of them")
    split, channels = ("test" if "test" in data.splits else "val"), model.encoder.in_channels
    loaded = {name: data.splits[name].load(size=config.size, channels=channels) for name in ("train", split)}
    train, scored = (
        LabelledSamples(loaded[name], size=config.size, channels=channels) for name in ("train", split)
    )
    skipped = (*data.skipped, *(image for images in loaded.values() for image in images.skipped))
    return train, scored, split, skipped


def _some(samples: LabelledSamples, count: int, seed: int) -> Tensor:
    """(N, C, H, W) of training images, drawn without their labels."""
    draw = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(samples), generator=draw)[:count].tolist()
    return torch.stack([samples.sample(index, draw)["images"] for index in chosen])


def _tune(
    after: Classifier,
    before: Classifier,
    outcome: Outcome,
    samples: LabelledSamples,
    settings: CompressSettings,
    out: Path,
    *,
    progress: bool,
) -> None:
    """Train the compressed model on labels and on what the whole one says; masks are held."""
    several = after.config.activation == "sigmoid"
    objective: Objective = ClassificationObjective(after, several=several)
    if settings.teacher_share:
        objective = DistillationObjective(
            objective,
            before,
            share=settings.teacher_share,
            temperature=settings.temperature,
            several=several,
        )
    drawn = LabelledSamples(
        samples.loaded,
        size=samples.size,
        channels=samples.channels,
        augmentation=ImageAugmentation.model_validate(settings.augmentation),
    )
    defaults = {"learning_rate": 1e-4, "seed": settings.seed, "batch_size": 32}
    training = TrainingSettings.model_validate({**defaults, **settings.training, "steps": settings.tune})
    after.train()
    if outcome.masks is None:
        fit(objective, drawn, training, progress=progress)
    else:
        with outcome.masks.held(after):
            fit(objective, drawn, training, progress=progress)
    after.eval()


def _scores(folder: str | Path, runtime: Runtime, samples: LabelledSamples) -> DiscriminationIntervals:
    from foveal.compression.onnx_models import OnnxClassifier

    if runtime == "torch":
        probabilities = class_probabilities(Classifier.from_pretrained(folder), samples)
    else:
        model = OnnxClassifier(folder)
        probabilities = np.concatenate(
            [model.predict_proba(batch).double().numpy() for batch in samples.batches(64)]
        )
    split = samples.loaded.split
    return discrimination_intervals(probabilities, split.labels, patients=split.patients)


def _write(
    found: Compressed,
    model: Path,
    method: str,
    target: Target,
    settings: CompressSettings,
    apart: float | None,
) -> None:
    """The model card and `compression.json`."""
    shown = compare_table(found)
    told = {
        "method": method,
        "target": target.text,
        "settings": settings.model_dump(mode="json"),
        "model": {"name": model.name, "weights_sha256": weights_hash(model)},
        "summary": found.outcome.summary,
        "layers": found.outcome.layers,
        "masks_sha256": None if found.outcome.masks is None else found.outcome.masks.sha256,
        "onnx_difference": apart,
        "costs": {name: vars(cost) for name, cost in found.costs.items()},
        "scores": {name: {k: list(v) for k, v in s._asdict().items()} for name, s in found.scores.items()},
        "split": found.split,
        "images": found.images,
    }
    write_atomically(found.folder / REPORT, json.dumps(told, indent=1) + "\n")
    tuned = "Not tuned afterwards."
    if settings.tune:
        share = f"{settings.teacher_share:.0%} of the loss from the whole model"
        tuned = f"Tuned afterwards for {settings.tune} steps, {share}."
    config: Any = json.loads((found.folder / CONFIG).read_text())
    parts = [
        "---\nlibrary_name: foveal\ntags: [image-classification]\n---",
        f"# {config['encoder']}, compressed by {method} to {target.text}",
        f"Made of the model `{model.name}` by `foveal compress`. For research; not a medical device and not "
        "for diagnosis.",
        found.outcome.summary,
        tuned,
        "## Before and after",
        f"Accuracy on the {found.images} images of the {found.split} split, with 95% intervals over "
        f"patients, or over images where patients are not known. Times are the least of {settings.rounds} "
        f"rounds in which all took turns, {torch.get_num_threads()} threads; memory is what loading the "
        "model and passing a batch add to a process.",
        shown,
    ]
    if apart is not None:
        sizes = [(found.folder / name).stat().st_size / 1e6 for name in (ONNX, WEIGHTS)]
        parts.append(
            f"ONNX Runtime runs `{ONNX}` ({sizes[0]:.2f} MB); its probabilities are at most {apart:.2g} "
            f"from torch's on 8 images. `{WEIGHTS}` ({sizes[1]:.2f} MB) beside it is the model for torch, "
            "which explanations and `foveal screen` read, too; a program that only runs ONNX does without."
        )
    write_atomically(found.folder / CARD, "\n\n".join(parts) + "\n")
