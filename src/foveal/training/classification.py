"""Training of a classifier on labelled images: the loop, its validation, and what it leaves behind."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from foveal.files import write_atomically
from foveal.metrics.discrimination import (
    DiscriminationIntervals,
    discrimination,
    discrimination_intervals,
)
from foveal.models.classifier import Classifier, ClassifierConfig
from foveal.objectives.base import Objective
from foveal.objectives.classification import ClassificationObjective
from foveal.objectives.classification_settings import ClassificationSettings
from foveal.training.labelled_samples import ImageAugmentation, LabelledSamples, mixed_batches
from foveal.training.loop import fit
from foveal.training.settings import TrainingSettings

if TYPE_CHECKING:
    from foveal.scans.labelled_images import LabelledImages, LabelledSplit, Skipped

_EVALUATIONS = 10
_BATCH = 128


@dataclass(frozen=True)
class TrainedClassifier:
    """A trained classifier and how it does.

    Attributes:
        model: in evaluation mode.
        scores: of the splits "val" and, where the data has one, "test", with intervals over patients.
        images: how many each split has.
        skipped: images that could not be read.
    """

    model: Classifier
    scores: dict[str, DiscriminationIntervals]
    images: dict[str, int]
    skipped: tuple[Skipped, ...]


def train_classifier(
    config: ClassifierConfig,
    data: LabelledImages,
    settings: ClassificationSettings,
    folder: Path | None,
    *,
    objective: Callable[[ClassificationObjective], Objective] = lambda plain: plain,
    progress: bool = True,
) -> TrainedClassifier:
    """Train a classifier; ten times on the way, or as `training` says, it is validated and saved.

    Writes to `folder`: `model/` (with a card), `predictions.csv` of the validation split,
    `predictions_test.csv` where there is a test split (which nothing else looks at), `scores.json`,
    `skipped.csv` where images could not be read, and what the loop writes. A stopped training goes on there.

    Args:
        config: of the classifier; its `mean`, `std` and `activation` are set from data and settings.
        data: labelled images; a validation split is dealt from the training images where there is none.
        settings: loss, mixing, augmentation and the loop's settings.
        folder: of the run; None writes nothing.
        objective: puts more around the classification objective, such as a penalty.
        progress: show it.

    Raises:
        ValueError: `config` has other classes than the data or channels that images do not have, or no image
            of a split can be read; `start_from` does not fit the encoder; images lack channels, and the
            encoder is not told which or images are mixed.
        FileNotFoundError: there is no `start_from`.
    """
    if len(config.classes) != len(data.classes):
        raise ValueError(
            f"classes are {', '.join(config.classes)}; {data.source} has {len(data.classes)}: "
            f"{', '.join(data.classes)}. Name as many, in this order, or none"
        )
    training = TrainingSettings.model_validate(settings.training)
    tenth = max(1, training.steps // _EVALUATIONS)
    training = training.replace(
        evaluate_every=training.evaluate_every or tenth, checkpoint_every=training.checkpoint_every or tenth
    )
    data = data.with_validation(settings.validation_fraction, seed=training.seed)
    channels = int(config.encoder_settings.get("in_channels", 3))
    loaded = {
        name: split.load(size=config.size, channels=channels, view=settings.view)
        for name, split in data.splits.items()
    }
    samples = {
        name: LabelledSamples(
            images,
            size=config.size,
            channels=channels,
            augmentation=ImageAugmentation.model_validate(settings.augmentation) if name == "train" else None,
        )
        for name, images in loaded.items()
    }
    mean, std = samples["train"].channel_statistics()
    config = config.replace(
        mean=settings.mean or mean,
        std=settings.std or std,
        activation="sigmoid" if data.several else "softmax",
    )
    torch.manual_seed(training.seed)
    model = Classifier(config)
    if any(split.channels is not None for split in data.splits.values()):
        _check_incomplete(model, settings, data)
    if settings.start_from is not None:
        model.load_official(settings.start_from)
    plain = ClassificationObjective(model, label_smoothing=settings.label_smoothing, several=data.several)

    def evaluate(module: nn.Module) -> dict[str, float]:
        probabilities = class_probabilities(model, samples["val"])
        return discrimination(probabilities, loaded["val"].split.labels)._asdict()

    fit(
        objective(plain),
        samples["train"],
        training,
        folder=folder,
        evaluate=evaluate,
        monitor="auc",
        collate=mixed_batches(len(config.classes), mixup=settings.mixup, cutmix=settings.cutmix),
        progress=progress,
    )
    model.eval()
    skipped = (*data.skipped, *(image for images in loaded.values() for image in images.skipped))
    scores: dict[str, DiscriminationIntervals] = {}
    for name in ("val", "test"):
        if name in samples:
            split = loaded[name].split
            probabilities = class_probabilities(model, samples[name])
            scores[name] = discrimination_intervals(probabilities, split.labels, patients=split.patients)
            if folder is not None:
                ending = "" if name == "val" else f"_{name}"
                table = _predictions(config.classes, split, probabilities)
                write_atomically(folder / f"predictions{ending}.csv", table)
    result = TrainedClassifier(model, scores, {name: len(images) for name, images in loaded.items()}, skipped)
    if folder is not None:
        _write(result, data, settings, training, folder)
    return result


def class_probabilities(model: Classifier, samples: LabelledSamples) -> np.ndarray:
    """(N, K) probabilities of all images, float64, on the model's device."""
    device, parts = model.head.weight.device, []
    for number, batch in enumerate(samples.batches(_BATCH)):
        rows = samples.channel_rows
        if rows is not None:
            rows = rows[number * _BATCH :][: len(batch)].to(device)
        parts.append(model.predict_proba(batch.to(device), rows).double().cpu())
    return torch.cat(parts).numpy()


def _check_incomplete(model: Classifier, settings: ClassificationSettings, data: LabelledImages) -> None:
    """Refuse images that lack channels where nobody would know."""
    if not model.takes_channels:
        raise ValueError(
            f"{data.source} tells which channels each image has, and encoder {model.config.encoder!r} takes "
            "all; allowed: 'channelvit', or 'masked-channels' around an encoder"
        )
    if settings.mixup or settings.cutmix:
        raise ValueError(
            f"mixup is {settings.mixup:g} and cutmix {settings.cutmix:g}, and images of {data.source} lack "
            "channels; allowed: 0, since mixed images would have channels of one alone"
        )


def _predictions(classes: tuple[str, ...], split: LabelledSplit, probabilities: np.ndarray) -> str:
    """One row an image: its name, patient, label, prediction, and the probability of each class."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "patient", "label", "prediction", *(f"probability_{name}" for name in classes)])
    several = split.labels.ndim == 2
    chosen = probabilities >= 0.5 if several else probabilities.argmax(axis=1)
    for name, owner, label, choice, row in zip(
        split.names, split.patients, split.labels, chosen, probabilities, strict=True
    ):
        if several:
            said = [
                "|".join(np.array(classes)[np.asarray(which, bool)].tolist()) for which in (label, choice)
            ]
        else:
            said = [classes[label], classes[choice]]
        writer.writerow([name, owner or "", *said, *(f"{value:.6g}" for value in row)])
    return text.getvalue()


def _write(
    result: TrainedClassifier,
    data: LabelledImages,
    settings: ClassificationSettings,
    training: TrainingSettings,
    folder: Path,
) -> None:
    scores = {
        split: {name: list(map(_number, estimate)) for name, estimate in figures._asdict().items()}
        for split, figures in result.scores.items()
    }
    head = {"interval": "95%, bootstrap over patients", "images": result.images, "scores": scores}
    write_atomically(folder / "scores.json", json.dumps(head, indent=2) + "\n")
    if result.skipped:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["path", "reason"])
        writer.writerows([image.path, image.reason] for image in result.skipped)
        write_atomically(folder / "skipped.csv", text.getvalue())
    else:
        (folder / "skipped.csv").unlink(missing_ok=True)
    result.model.save_pretrained(folder / "model", card=_card(result, data, settings, training))


def _number(value: float) -> float | None:
    return round(float(value), 6) if np.isfinite(value) else None


def _card(
    result: TrainedClassifier,
    data: LabelledImages,
    settings: ClassificationSettings,
    training: TrainingSettings,
) -> str:
    """The model card: what it is, what it saw, how it does."""
    config = result.model.config
    parameters = sum(parameter.numel() for parameter in result.model.parameters())
    kind = "may have any number of" if data.several else "is of one of"
    rows = [
        f"| {split} | {result.images[split]} | " + " | ".join(map(_cell, figures)) + " |"
        for split, figures in result.scores.items()
    ]
    start = "random weights unless the encoder's settings say otherwise"
    if settings.start_from is not None:
        start = f"an encoder with the weights of `{Path(settings.start_from).name}`"
    told = json.dumps(settings.model_dump(mode="json"), indent=2)
    return "\n".join(
        [
            "---",
            "library_name: foveal",
            "tags: [image-classification]",
            "---",
            f"# {config.encoder} on {data.source.name}",
            "",
            f"A `foveal.models.Classifier` of {parameters:,} parameters. For research; not a medical device "
            "and not for diagnosis.",
            "",
            "```python",
            "from foveal.models import Classifier",
            "",
            'model = Classifier.from_pretrained("FOLDER")',
            "```",
            "",
            f"**In:** images (B, {len(config.mean)}, {config.size}, {config.size}) in [0, 1]. **Out:** "
            f"logits; `predict_proba` gives probabilities. An image {kind} {len(config.classes)} classes: "
            f"{', '.join(config.classes)}.",
            "",
            "## How it does",
            "AUC, accuracy and balanced accuracy with 95% intervals (bootstrap over patients, or over images "
            "where patients are not known). Weights "
            + (
                "are the best of the evaluations on val by AUC, so that val flatters them."
                if training.final_weights == "best"
                else "are those after the last step."
            ),
            "",
            "| split | images | AUC | accuracy | balanced accuracy |",
            "| --- | --- | --- | --- | --- |",
            *rows,
            "",
            "## How it was made",
            f"Trained from {start}, on "
            f"{result.images['train']} images of `{data.source.name}`; {len(result.skipped)} images could "
            f"not be read. {training.steps} steps of {training.batch_size} images, seed {training.seed}.",
            "",
            "```json",
            told,
            "```",
            "",
        ]
    )


def _cell(estimate: tuple[float, float, float]) -> str:
    value, low, high = estimate
    return f"{value:.3f} ({low:.3f} to {high:.3f})"
