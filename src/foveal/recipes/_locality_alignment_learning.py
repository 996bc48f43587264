"""Locality alignment in small: a tiny vision transformer that learnt one label an image, then aligned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from foveal.blocks.patch_masks import MaskSettings
from foveal.encoders import Encoder, create_encoder
from foveal.encoders.preprocessing import EncoderPreprocess
from foveal.encoders.vit_tokens import vit_tokens
from foveal.evaluation.patch_probe import (
    HeadKind,
    PatchProbeSettings,
    ProbeSamples,
    fit_patch_probe,
    frozen_tokens,
    patch_labels,
    patch_scores,
)
from foveal.models.masked_embedding import MaskedEmbedding
from foveal.objectives.locality_alignment import LocalityAlignment, MaskedTokenPrediction
from foveal.recipes._encoder_learning import LearningData, accuracy, learn
from foveal.recipes._object_pictures import ScatteredPictures, scattered_pictures
from foveal.training import TrainingSettings, fit
from foveal.training.alignment import validation_errors
from foveal.training.randomness import without_touching_randomness

SIDE, PATCH, CLASSES = 32, 8, 5
TRAIN, TEST = 2048, 512
UNIFORM = MaskSettings()
BERNOULLI = MaskSettings(kind="bernoulli", keep_ratio=0.5, draws=2, antithetic=False)  # as many masks
PRECURSOR = MaskSettings(kind="bernoulli", keep_ratio=0.5, antithetic=False, whole=False)


@dataclass(frozen=True)
class Pretrained:
    """A backbone that learnt one label an image, and the pictures.

    Attributes:
        encoder: in evaluation mode; takes standardised pictures.
        preprocess: their size, mean and deviation.
        pictures: to learn from, without their labels from here on.
        test: for probes and errors.
        accuracy: of the image labels of the test pictures.
    """

    encoder: Encoder
    preprocess: EncoderPreprocess
    pictures: ScatteredPictures
    test: ScatteredPictures
    accuracy: float


@dataclass(frozen=True)
class Pictures:
    """Unlabelled samples for the training loop, mirrored at random."""

    images: Tensor = field(repr=False)

    def __len__(self) -> int:
        return len(self.images)

    def sample(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        """One picture."""
        image = self.images[index]
        return {"images": image.flip(2) if torch.rand((), generator=generator) < 0.5 else image}


def tiny_vit(**options: Any) -> Encoder:
    """Six blocks of width 48 over 4 x 4 patches of 32 px."""
    chosen = {"image_size": SIDE, "patch_size": PATCH, "embed_dim": 48, "depth": 6, "num_heads": 4}
    return create_encoder("timm/vit_tiny_patch16_224", **{**chosen, **options})


@cache
def pretrained(seed: int, *, steps: int = 400) -> Pretrained:
    """The backbone of a seed, trained on the class of most objects."""
    pictures = scattered_pictures(TRAIN, side=SIDE, seed=2 * seed)
    test = scattered_pictures(TEST, side=SIDE, seed=2 * seed + 1)
    data = LearningData(pictures.images, pictures.labels, test.images, test.labels)
    learned = learn(tiny_vit, data, steps=steps, batch_size=64, learning_rate=1e-3, seed=seed)
    mean, std = (getattr(learned.model, name).flatten().tolist() for name in ("mean", "std"))
    encoder = learned.model.encoder
    assert isinstance(encoder, Encoder)
    return Pretrained(
        encoder.eval(),
        EncoderPreprocess(size=SIDE, mean=tuple(mean), std=tuple(std)),
        pictures,
        test,
        accuracy(learned.probabilities, learned.labels),
    )


def training(seed: int, steps: int) -> TrainingSettings:
    """The paper's, with the larger rate that so few steps of so small a network want."""
    return TrainingSettings(
        steps=steps, batch_size=32, learning_rate=1e-3, minimum_factor=0.1, betas=(0.9, 0.95),
        weight_decay=0.01, gradient_clip=1.0, seed=seed, tensorboard=False, log_every=steps,
    )  # fmt: skip


@dataclass(frozen=True)
class Aligned:
    """A student after alignment.

    Attributes:
        student: in evaluation mode.
        errors: of the test pictures; see `validation_errors`.
    """

    student: MaskedEmbedding
    errors: Mapping[str, float]


@cache
def aligned(
    seed: int, *, masks: MaskSettings = UNIFORM, prefix_only: bool = False, steps: int = 200
) -> Aligned:
    """The seed's backbone aligned, with masks of a kind."""
    before = pretrained(seed)
    with without_touching_randomness():
        torch.manual_seed(seed)
        student = MaskedEmbedding.of(before.encoder, preprocess=before.preprocess, prefix_only=prefix_only)
        objective = LocalityAlignment(student, before.encoder, masks=masks)
        objective.calibrate(before.test.images.split(128))
        fit(objective, Pictures(before.pictures.images), training(seed, steps), progress=False)
        objective.eval()
        errors = validation_errors(objective, iter(before.test.images.split(128)))
    return Aligned(student.eval(), errors)


@cache
def precursor(seed: int, *, steps: int = 200) -> MaskedEmbedding:
    """The seed's backbone after masked image modelling alone."""
    before = pretrained(seed)
    with without_touching_randomness():
        torch.manual_seed(seed)
        student = MaskedEmbedding.of(before.encoder, preprocess=before.preprocess)
        objective = MaskedTokenPrediction(student, before.encoder, masks=PRECURSOR)
        objective.calibrate(before.test.images.split(128))
        fit(objective, Pictures(before.pictures.images), training(seed, steps), progress=False)
    return student.eval()


def tokens_of(
    encoder: nn.Module, preprocess: EncoderPreprocess, *, skip_blocks: int = 0
) -> Callable[..., Any]:
    """Pictures in [0, 1] to an encoder's normalised tokens."""
    mean, std = (torch.tensor(value).view(-1, 1, 1) for value in (preprocess.mean, preprocess.std))
    take = partial(vit_tokens, encoder, skip_blocks=skip_blocks)
    return lambda images: take((images - mean) / std)


def recall(
    encoder: nn.Module, seed: int, *, head: HeadKind = "transformer", skip_blocks: int = 0, steps: int = 300
) -> float:
    """Macro-recall of test patches, in points: a probe, the paper's by default, on frozen tokens."""
    before = pretrained(seed)
    take = tokens_of(encoder, before.preprocess, skip_blocks=skip_blocks)
    labels, truth = (patch_labels(p.annotation, PATCH, CLASSES) for p in (before.pictures, before.test))
    settings = PatchProbeSettings(
        head=head,
        training={
            "steps": steps, "batch_size": 64, "learning_rate": 5e-3 if head == "linear" else 1e-3,
            "minimum_factor": 0.1, "warmup_steps": steps // 10, "seed": seed, "tensorboard": False,
            "log_every": steps,
        },
    )  # fmt: skip
    samples = ProbeSamples(frozen_tokens(take, before.pictures.images), labels)
    trained = fit_patch_probe(samples, CLASSES, prefix_tokens=1, settings=settings)
    with torch.no_grad():
        return 100 * patch_scores(trained(frozen_tokens(take, before.test.images)), truth).recall


@torch.no_grad()
def locality_index(encoder: nn.Module, pictures: ScatteredPictures, preprocess: EncoderPreprocess) -> float:
    """Change of the token of a patch whose object is taken away, over the mean change of the others.

    In every picture the patch with the most pixels of objects becomes ground.
    """
    take = tokens_of(encoder, preprocess)
    objects = patch_labels((pictures.annotation > 0).long(), 1, 2)[..., 1]  # (B, S S), of every pixel
    side = SIDE // PATCH
    covered = objects.view(-1, side, PATCH, side, PATCH).sum((2, 4)).flatten(1).argmax(dim=1)
    chosen = torch.zeros(len(covered), side * side).scatter_(1, covered[:, None], 1.0)
    places = chosen.view(-1, 1, side, side).repeat_interleave(PATCH, 2).repeat_interleave(PATCH, 3)
    swapped = torch.where(places > 0, pictures.grounds, pictures.images)
    change = (take(swapped) - take(pictures.images)).norm(dim=2)[:, 1:]
    elsewhere = (change * (1 - chosen)).sum() / (1 - chosen).sum()
    return float((change * chosen).sum() / chosen.sum() / elsewhere)
