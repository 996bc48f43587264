"""From a folder of images and an encoder to one with clean features, with pictures and figures of both."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from foveal.encoders.base import Encoder, create_encoder
from foveal.encoders.denoised import Denoised
from foveal.encoders.preprocessing import EncoderPreprocess
from foveal.encoders.saving import CONFIG, read_config
from foveal.explanation.decomposition import DecompositionSettings, dense_features
from foveal.explanation.denoising import DenoisingPairs, decompose_images, distil_denoised, train_denoiser
from foveal.explanation.feature_pictures import features_png
from foveal.files import write_atomically
from foveal.metrics.position_variance import position_explained_variance
from foveal.models.classifier import Classifier
from foveal.models.embedder import Embedder
from foveal.scans.discovery import safe_name
from foveal.scans.image_splits import View
from foveal.scans.unlabelled_images import read_unlabelled_images
from foveal.training import TrainingSettings
from foveal.training.labelled_samples import ImageAugmentation, ImageSamples

_MEASURED = 64  # images whose features tell how much places explain

CARD = """# Denoised {name}

An encoder of foveal, `Encoder.from_pretrained(folder)`, trained to give patch tokens without artifacts of
position (Denoising Vision Transformers, arXiv 2401.02957), on {count} images of {size} x {size} px without
labels. Share of the tokens' variance that their place explains: {before:.3f} before, {after:.3f} now. Whether
clean features serve a task better has to be measured on it: the paper finds gains for most vision
transformers, and none for MAE.
"""


@dataclass(frozen=True)
class DenoisingSummary:
    """What a run made.

    Attributes:
        denoised: encoder and block, in evaluation mode.
        student: encoder that needs no block; None where none was distilled.
        images: how many were decomposed.
        explained: share of the variance that places explain, by "raw", "denoised" and "student".
    """

    denoised: Denoised
    student: Encoder | None
    images: int
    explained: dict[str, float]


def load_encoder(name_or_folder: str, **settings: Any) -> tuple[Encoder, EncoderPreprocess]:
    """An encoder by name, or that of a saved `Encoder`, `Classifier` or `Embedder`, and what its images need.

    Raises:
        ValueError: an unknown name, a folder of another model, or settings beside a folder.
    """
    folder = Path(name_or_folder)
    if not (folder / CONFIG).is_file():
        encoder = create_encoder(name_or_folder, **settings).eval()
        preprocess = encoder.preprocess or EncoderPreprocess()
        return encoder, preprocess.for_channels(encoder.in_channels)
    if settings:
        raise ValueError(f"encoder_settings {sorted(settings)} beside {folder}, which tells its own")
    kind = read_config(folder).get("foveal_model")
    if kind == "Classifier":
        model = Classifier.from_pretrained(folder)
        told = EncoderPreprocess(size=model.config.size, mean=model.config.mean, std=model.config.std)
        return model.encoder, told
    if kind == "Embedder":
        embedder = Embedder.from_pretrained(folder)
        return embedder.encoder, embedder.config.preprocess.for_channels(embedder.encoder.in_channels)
    encoder = Encoder.from_pretrained(folder)
    return encoder, (encoder.preprocess or EncoderPreprocess()).for_channels(encoder.in_channels)


def run_denoising(
    data: str | Path,
    out: str | Path,
    encoder: Encoder,
    preprocess: EncoderPreprocess,
    *,
    size: int | None = None,
    view: View = "whole",
    most_images: int | None = 10_000,
    decomposition: DecompositionSettings | None = None,
    training: TrainingSettings | None = None,
    heads: int | None = None,
    distil: bool = False,
    distillation: TrainingSettings | None = None,
    pictures: int = 8,
    progress: Callable[[str], None] | None = None,
) -> DenoisingSummary:
    """Decompose images, train the block, and distil it into the encoder where that is wanted.

    Writes into `out`: `features/` (raw and clean features in fp16; what is there is not computed again),
    `training/` (checkpoints and log), `model/` (the `Denoised` encoder), `student/`, `distillation/`,
    `pictures/NAME.png` and `summary.json`. The same call goes on with what a killed run left.

    Args:
        data: see `read_unlabelled_images`.
        out: folder.
        encoder: with patch tokens on a grid; it stays as it is.
        preprocess: of its images.
        size: side of the images in pixels; that of `preprocess` where None.
        view: "whole" images, or the square around the "field" of view of an eye.
        most_images: how many of them, from the first.
        decomposition: the paper's where None.
        training: of the block; the paper's where None.
        heads: of the block.
        distil: train an encoder that needs no block.
        distillation: of that; the paper's where None.
        pictures: how many images to draw.
        progress: called with a line for each step.

    Raises:
        ValueError: see `decompose` and `read_unlabelled_images`.
    """
    out, tell = Path(out), progress or (lambda line: None)
    side = size or preprocess.size
    split = read_unlabelled_images(data).splits["train"]
    loaded = split.load(size=side, channels=1 if encoder.in_channels == 1 else 3, view=view)
    options: dict[str, Any] = {"size": side, "channels": encoder.in_channels}
    standardise = _Standardise(preprocess)
    count = min(len(loaded), most_images or len(loaded))
    plain = ImageSamples(loaded, **options)

    def images() -> Iterator[Tensor]:
        for number, image in enumerate(each for batch in plain.batches(1) for each in batch):
            if number == count:
                return
            yield standardise(image)

    pairs = decompose_images(encoder, images(), out / "features", decomposition, progress=tell)
    denoised = train_denoiser(encoder, pairs, training, folder=out / "training", progress=True, heads=heads)
    shown = torch.stack([image for image, _ in zip(images(), range(min(count, _MEASURED)), strict=False)])
    found = {"raw": features_of(encoder, shown), "denoised": features_of(denoised, shown)}
    student = None
    if distil:
        mirrored = ImageAugmentation(crop=1.0, rotation=0.0, brightness=0.0, contrast=0.0)
        samples = _Samples(ImageSamples(loaded, augmentation=mirrored, **options), standardise)
        student = distil_denoised(
            denoised, samples, distillation, folder=out / "distillation", progress=True
        )  # fmt: skip
        found["student"] = features_of(student, shown)
    explained = {
        name: position_explained_variance(each) if len(each) > 1 else float("nan")
        for name, each in found.items()
    }
    told = {"name": encoder.name, "count": count, "size": side, "before": explained["raw"]}
    denoised.save_pretrained(out / "model", card=CARD.format(**told, after=explained["denoised"]))
    if student is not None:
        student.save_pretrained(out / "student", card=CARD.format(**told, after=explained["student"]))
    _draw(out / "pictures", pairs, found, shown, loaded.split.names, count=pictures)
    summary = {"images": count, "side": side, "position_explained_variance": explained}
    write_atomically(out / "summary.json", json.dumps(summary, indent=2) + "\n")
    return DenoisingSummary(denoised, student, count, explained)


def features_of(encoder: Encoder, images: Tensor, *, batch: int = 16) -> Tensor:
    """(B, H, W, D) features of images, some at a time."""
    return torch.cat([dense_features(encoder, part) for part in images.split(batch)])


def _draw(
    folder: Path,
    pairs: DenoisingPairs,
    found: dict[str, Tensor],
    images: Tensor,
    names: tuple[str, ...],
    *,
    count: int,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(min(count, len(images))):
        _, clean = pairs.store[pairs.keys[number]]
        maps = {"raw": found["raw"][number], "decomposed": clean}
        maps |= {name: each[number] for name, each in found.items() if name != "raw"}
        maps["raw less decomposed"] = maps["raw"] - clean
        if clean.shape[-1] >= 3:
            clean_ones = [name for name in maps if not name.startswith("raw")]
            png = features_png(maps, images[number], together=clean_ones)
            write_atomically(folder / f"{number:03d}-{safe_name(Path(names[number]).stem)}.png", png)


class _Standardise:
    def __init__(self, preprocess: EncoderPreprocess) -> None:
        self.mean = torch.tensor(preprocess.mean).view(-1, 1, 1)
        self.std = torch.tensor(preprocess.std).view(-1, 1, 1)

    def __call__(self, image: Tensor) -> Tensor:
        return (image - self.mean) / self.std


class _Samples:
    """Training samples `images`, standardised."""

    def __init__(self, samples: ImageSamples, standardise: _Standardise) -> None:
        self.samples, self.standardise = samples, standardise

    def __len__(self) -> int:
        return len(self.samples)

    def sample(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        image = self.samples.sample(index, generator)["images"]
        return {"images": self.standardise(image)}
