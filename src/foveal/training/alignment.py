"""Locality alignment of a vision transformer on images without labels, and what it leaves behind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from foveal.blocks.patch_masks import MaskSettings
from foveal.encoders.base import Encoder, create_encoder
from foveal.encoders.checkpoints import load_official
from foveal.encoders.preprocessing import EncoderPreprocess
from foveal.encoders.saving import CONFIG, read_config
from foveal.files import write_atomically
from foveal.models.masked_embedding import MaskedEmbedding
from foveal.objectives.locality_alignment import LocalityAlignment, MaskedTokenPrediction, token_losses
from foveal.objectives.locality_alignment_settings import AlignmentSettings
from foveal.scans.image_splits import Skipped
from foveal.scans.unlabelled_images import UnlabelledImages
from foveal.training.devices import start_accelerator
from foveal.training.labelled_samples import ImageAugmentation, ImageSamples
from foveal.training.loop import fit
from foveal.training.settings import TrainingSettings

DEFAULT_ENCODER = "timm/vit_base_patch16_clip_224"
_EVALUATIONS = 10
_BATCH = 32


@dataclass(frozen=True)
class AlignedEncoder:
    """What an alignment leaves behind.

    Attributes:
        model: student with head and decoder, in evaluation mode; `.encoder` is the drop-in.
        scores: `mse` on the validation images, of all masks; `whole` of whole images, `parts` of masked ones;
            1 is what a constant gets.
        scale: of the targets.
        images: how many each split has.
        skipped: images that could not be read.
    """

    model: MaskedEmbedding
    scores: dict[str, float]
    scale: float
    images: dict[str, int]
    skipped: tuple[Skipped, ...]


def pretrained_encoder(settings: AlignmentSettings) -> tuple[Encoder, EncoderPreprocess]:
    """The encoder that is to be aligned, with its weights, and how images reach it.

    Raises:
        FileNotFoundError: there is no `start_from`.
        ValueError: the weights do not fit the encoder.
    """
    name, chosen = settings.encoder, dict(settings.encoder_settings)
    told: dict[str, Any] = {}
    start = None if settings.start_from is None else Path(settings.start_from)
    if start is not None and (start / CONFIG).is_file():
        told = read_config(start)
        if name is None:
            name = told.get("encoder")
            chosen = {**(told.get("encoder_settings") or {}), **chosen}
    chosen = {"in_channels": settings.in_channels, **chosen}
    if settings.image_size is not None:
        chosen["image_size"] = settings.image_size
    encoder = create_encoder(name or DEFAULT_ENCODER, **chosen)
    if start is not None:
        load_official(encoder, start)
    own = encoder.preprocess or EncoderPreprocess()
    told |= told.get("preprocess") or {}
    size = settings.image_size or chosen.get("image_size") or own.size
    return encoder.eval(), EncoderPreprocess(
        size=int(size),
        mean=settings.mean or tuple(told.get("mean") or own.mean),
        std=settings.std or tuple(told.get("std") or own.std),
    ).for_channels(encoder.in_channels)


def student_of(
    encoder: Encoder, preprocess: EncoderPreprocess, settings: AlignmentSettings
) -> MaskedEmbedding:
    """The untrained student of a pre-trained encoder."""
    return MaskedEmbedding.of(
        encoder,
        preprocess=preprocess,
        soft_cap=settings.soft_cap,
        **settings.model_dump(include={"head", "width", "depth", "prefix_only"}),
    )


def align_encoder(
    data: UnlabelledImages, settings: AlignmentSettings, folder: Path | None, *, progress: bool = True
) -> AlignedEncoder:
    """Align the encoder that settings name to images; a stopped training goes on in its folder.

    Writes to `folder`: `model/` (the encoder alone, for `create_encoder` and `Encoder.from_pretrained`),
    `decoder/` (with head and decoder, a `MaskedEmbedding`) where it is kept, `scores.json`, and what the loop
    writes; a precursor's run is in `precursor/`.

    Args:
        data: images; a validation split is dealt where there is none.
        settings: encoder, decoder, masks, loss and the loop's settings.
        folder: of the run; None writes nothing.
        progress: show it.

    Raises:
        FileNotFoundError: there is no `start_from`.
        ValueError: an encoder that is no vision transformer, weights that do not fit, or no readable image.
    """
    training = TrainingSettings.model_validate(settings.training)
    tenth = max(1, training.steps // _EVALUATIONS)
    training = training.replace(
        evaluate_every=training.evaluate_every or tenth, checkpoint_every=training.checkpoint_every or tenth
    )
    torch.manual_seed(training.seed)
    teacher, preprocess = pretrained_encoder(settings)
    samples, skipped = _samples(
        data, settings, size=preprocess.size, channels=teacher.in_channels, seed=training.seed
    )
    student = student_of(teacher, preprocess, settings)
    shared: dict[str, Any] = {"loss": settings.loss, "skip_blocks": settings.skip_blocks}
    objective = LocalityAlignment(
        student, teacher, masks=MaskSettings.model_validate(settings.masks), **shared
    )
    shown = samples["val"]
    objective.to(start_accelerator(training).device)  # the scale takes as long as many steps
    scale = objective.calibrate(_batches(shown, settings.most_validation_images), seed=training.seed)
    if settings.precursor_steps:
        masks = MaskSettings.model_validate(settings.precursor_masks)
        precursor = MaskedTokenPrediction(student, teacher, masks=masks, **shared)
        precursor.scale.copy_(objective.scale)
        before = training.replace(
            steps=settings.precursor_steps, evaluate_every=None, patience=None, final_weights="last"
        )
        where = None if folder is None else folder / "precursor"
        fit(precursor, samples["train"], before, folder=where, progress=progress)
        student.head.requires_grad_(True)
        student.decoder.requires_grad_(True)

    def evaluate(module: nn.Module) -> dict[str, float]:
        return validation_errors(objective, _batches(shown, settings.most_validation_images), training.seed)

    fit(
        objective, samples["train"], training, folder=folder, evaluate=evaluate, monitor="mse",
        direction="lower", progress=progress,
    )  # fmt: skip
    objective.eval()
    counts = {name: len(images) for name, images in samples.items()}
    result = AlignedEncoder(student, evaluate(objective), scale, counts, skipped)
    if folder is not None:
        _write(result, data, settings, training, folder)
    return result


@torch.no_grad()
def validation_errors(
    objective: LocalityAlignment, batches: Iterator[Tensor], seed: int = 0
) -> dict[str, float]:
    """Squared errors of predicted tokens under masks that depend on the seed alone, whatever the loss is.

    Returns:
        `mse` over all masks; `whole` and `parts` where the objective draws both kinds.
    """
    generator = torch.Generator().manual_seed(seed)
    errors = []
    for images in batches:
        images = images.to(objective.scale.device)
        masks = objective.draw(images.cpu(), generator).to(images.device)
        each = token_losses(*objective.predicted(images, masks)).view(masks.shape[:2])
        errors.append(each.double().cpu())
    table = torch.cat(errors)
    figures = {"mse": float(table.mean())}
    if objective.masks.whole and objective.masks.draws:
        figures |= {"whole": float(table[:, -1].mean()), "parts": float(table[:, :-1].mean())}
    return figures


def _samples(
    data: UnlabelledImages, settings: AlignmentSettings, *, size: int, channels: int, seed: int
) -> tuple[dict[str, ImageSamples], tuple[Skipped, ...]]:
    data = data.with_validation(settings.validation_fraction, seed=seed)
    loaded = {
        name: data.splits[name].load(size=size, channels=channels, view=settings.view)
        for name in ("train", "val")
    }
    augmentation = ImageAugmentation.model_validate(settings.augmentation)
    samples = {
        name: ImageSamples(
            images, size=size, channels=channels, augmentation=augmentation if name == "train" else None
        )
        for name, images in loaded.items()
    }
    return samples, (*data.skipped, *(image for images in loaded.values() for image in images.skipped))


def _batches(samples: ImageSamples, most: int) -> Iterator[Tensor]:
    """The first so many images in batches."""
    left = most
    for images in samples.batches(_BATCH):
        yield images[:left]
        left -= len(images)
        if left <= 0:
            return


def _write(
    result: AlignedEncoder,
    data: UnlabelledImages,
    settings: AlignmentSettings,
    training: TrainingSettings,
    folder: Path,
) -> None:
    told = {
        "scores": {name: round(value, 6) for name, value in result.scores.items()},
        "scale": result.scale,
        "images": result.images,
        "skipped": [{"path": image.path, "reason": image.reason} for image in result.skipped],
    }
    write_atomically(folder / "scores.json", json.dumps(told, indent=2) + "\n")
    card = _card(result, data, settings, training)
    result.model.encoder.save_pretrained(folder / "model", card=card)
    if settings.keep_decoder:
        result.model.save_pretrained(folder / "decoder", card=card)


def _card(
    result: AlignedEncoder, data: UnlabelledImages, settings: AlignmentSettings, training: TrainingSettings
) -> str:
    """The model card: what it is, what it saw, what it reconstructs."""
    preprocess = result.model.config.preprocess
    scores = ", ".join(f"{name} {value:.3f}" for name, value in result.scores.items())
    began = settings.start_from and Path(settings.start_from).name
    return "\n".join(
        [
            "---",
            "library_name: foveal",
            "tags: [image-feature-extraction]",
            "---",
            f"# {result.model.encoder.name}, aligned to its patches",
            "",
            "A vision transformer after locality alignment (MaskEmbed, arXiv 2410.11087): its patch tokens",
            "are to say what is at their patch. Its pooled vector was not trained for its old use.",
            "",
            f"- weights before: {began or 'those of the encoder settings'}",
            f"- images: {result.images['train']} of `{data.source.name}`, {result.images['val']} to validate",
            f"- steps: {training.steps} of {training.batch_size} images, seed {training.seed}",
            f"- squared error on the validation images, where a constant gets 1: {scores}",
            f"- images are {preprocess.size} px, mean {list(np.round(preprocess.mean, 4))}, "
            f"std {list(np.round(preprocess.std, 4))}",
            "",
            "```python",
            "from foveal.encoders.base import Encoder",
            "from foveal.encoders.vit_tokens import vit_tokens",
            "",
            'encoder = Encoder.from_pretrained("model")',
            "tokens = vit_tokens(encoder, images, skip_blocks=1, norm=False)  # penultimate layer, for a VLM",
            "```",
            "",
        ]
    )
