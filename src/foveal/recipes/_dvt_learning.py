"""Learning experiments of DVT: known parts recovered, and a small ViT cleaned of an artifact put on it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import tv_tensors
from torchvision.transforms import v2

from foveal.encoders import Encoder, Features, create_encoder
from foveal.encoders.denoised import Denoised
from foveal.evaluation.dense_probe import DenseData, probe_classes
from foveal.explanation.decomposition import (
    Decomposition,
    DecompositionSettings,
    decompose,
    fit_decomposition,
)
from foveal.explanation.denoising import decompose_images, paper_training, train_denoiser
from foveal.explanation.denoising_run import features_of
from foveal.objectives.base import Batch, Objective
from foveal.recipes._object_pictures import object_pictures
from foveal.scans.crop_views import draw_crops
from foveal.training import TrainingSettings, fit

SIDE, PATCH, DIM = 48, 4, 64
TRAINED, HELD_OUT = 24, 8
SMALL = DecompositionSettings.laptop(
    views=64, levels=6, max_resolution=48, steps=400, warmup_steps=40, batch_size=1024
)


@dataclass(frozen=True)
class Truth:
    """Features of views made of known parts.

    Attributes:
        features: (V, H, W, D), the whole image last.
        coordinates: (V, H, W, 2).
        semantics: (H, W, D) of the whole image.
        artifact: (H, W, D).
        shifted: features of as many windows of half the area, not mirrored, and of the image.
        shifted_coordinates: of these.
    """

    features: Tensor
    coordinates: Tensor
    semantics: Tensor
    artifact: Tensor
    shifted: Tensor
    shifted_coordinates: Tensor


def known_parts(seed: int, *, side: int = 12, dim: int = 24, rank: int = 6, views: int = 64) -> Truth:
    """Smooth semantics of a few components, an artifact half smooth and half rough, and a little noise."""
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random)

    coarse = torch.einsum("krc,kd->drc", normal(rank, 7, 7), normal(rank, dim) / rank**0.5)[None]

    def semantics(places: Tensor) -> Tensor:
        at = 2 * places.reshape(1, -1, 1, 2) - 1
        found = F.grid_sample(coarse, at, mode="bicubic", padding_mode="border", align_corners=True)
        return found[0, :, :, 0].T.reshape(*places.shape[:-1], dim)

    artifact = position_artifact(side, dim, random)
    size = (side * 8, side * 8)
    crops = draw_crops(size, views, seed=seed).coordinates((side, side))
    windows = draw_crops(size, views, scale=(0.5, 0.5), ratio=(1, 1), flip=0.0, seed=seed)
    shifted = windows.coordinates((side, side))
    made = [
        semantics(places) + artifact + 0.1 * normal(*places.shape[:-1], dim) for places in (crops, shifted)
    ]
    return Truth(made[0], crops, semantics(crops[-1]), artifact, made[1], shifted)


def position_artifact(side: int, dim: int, random: torch.Generator) -> Tensor:
    """(side, side, D) of unit variance: half of it smooth over the grid, half of each cell alone."""
    smooth = F.interpolate(
        torch.randn(1, dim, 4, 4, generator=random), size=(side, side), mode="bicubic", align_corners=True
    )[0].movedim(0, -1)
    return (smooth / smooth.std() + torch.randn(side, side, dim, generator=random)) / 2**0.5


def fitted(truth: Truth, **changes: Any) -> Decomposition:
    """The decomposition of known parts."""
    return fit_decomposition(truth.features, truth.coordinates, SMALL.replace(**changes))


def centred(features: Tensor) -> Tensor:
    """Less the mean of each channel over the grid (H, W, D)."""
    return features - features.mean(dim=(0, 1))


class WithArtifact(Encoder):
    """An encoder on whose patch tokens lies one pattern of their place, of a strength in deviations."""

    pattern: Tensor

    def __init__(self, encoder: Encoder, pattern: Tensor) -> None:
        super().__init__()
        self.encoder = encoder
        self.dim, self.patch_size, self.in_channels = encoder.dim, encoder.patch_size, encoder.in_channels
        self.register_buffer("pattern", pattern.flatten(0, 1))
        self.settings = {}

    def forward(self, images: Tensor) -> Features:
        """The encoder's features, patch tokens with the pattern."""
        found = self.encoder(images)
        return Features(found.patches + self.pattern, found.grid, found.pooled)


class _PatchClasses(Objective):
    """Cross-entropy of a linear head on each token, by the class at the middle of its patch."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(encoder.dim, 5)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Loss `loss`."""
        logits = self.head(self.encoder(batch["images"]).patches)
        classes = batch["masks"][:, PATCH // 2 :: PATCH, PATCH // 2 :: PATCH]
        return {"loss": F.cross_entropy(logits.flatten(0, 1), classes.flatten())}


class _Crops:
    """Pictures with classes of pixels, cropped to a tenth or more of the area, mirrored at random."""

    def __init__(self, images: Tensor, classes: Tensor) -> None:
        self.images, self.classes = images, classes
        self.change = v2.Compose([v2.RandomResizedCrop(SIDE, scale=(0.1, 1.0)), v2.RandomHorizontalFlip()])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        image, classes = self.change(self.images[index], tv_tensors.Mask(self.classes[index]))
        return {"images": image, "masks": classes.as_subclass(torch.Tensor)}


@dataclass(frozen=True)
class Scenes:
    """Standardised pictures of objects (N, 3, S, S) with the class of each pixel, 0 the ground."""

    images: Tensor
    classes: Tensor
    test_images: Tensor
    test_classes: Tensor


@cache
def scenes() -> Scenes:
    """Pictures of discs, rings, crosses and stripes of 20 px."""
    made = object_pictures(side=SIDE)
    data = made.data
    return Scenes(
        (data.images - 0.45) / 0.2,
        made.train_masks * (data.labels + 1)[:, None, None],
        (data.test_images - 0.45) / 0.2,
        made.masks * (data.test_labels + 1)[:, None, None],
    )


@cache
def trained_vit(*, steps: int = 500) -> Encoder:
    """A ViT of three blocks that tells the class of each patch in crops of these pictures."""
    pictures = scenes()
    torch.manual_seed(0)
    encoder = create_encoder(
        "timm/vit_tiny_patch16_224", image_size=SIDE, patch_size=PATCH, embed_dim=DIM, depth=3, num_heads=2
    )
    training = _training(steps, batch_size=16, learning_rate=2e-3)
    fit(_PatchClasses(encoder), _Crops(pictures.images, pictures.classes), training, progress=False)
    return encoder.eval().requires_grad_(False)


def with_artifact(encoder: Encoder, *, strength: float = 3.0) -> Encoder:
    """The encoder with a pattern that is, in each channel, as many times as strong as its features.

    At strength 1 a linear head of all channels hardly notices the pattern: there is nothing to regain.
    """
    features = features_of(encoder, scenes().images[:64])
    random = torch.Generator().manual_seed(1)
    pattern = position_artifact(SIDE // PATCH, DIM, random) * strength * features.std(dim=(0, 1, 2))
    return WithArtifact(encoder, pattern).eval()


@dataclass(frozen=True)
class Cleaned:
    """An encoder before and after, with what decompositions of held-out images say.

    Attributes:
        raw: the encoder.
        denoised: with the block.
        held_out: decompositions of the first held-out images.
    """

    raw: Encoder
    denoised: Denoised
    held_out: list[Decomposition]


def cleaned(encoder: Encoder) -> Cleaned:
    """Stages 1 and 2 on some of the pictures."""
    pictures = scenes()
    with tempfile.TemporaryDirectory() as folder:
        pairs = decompose_images(encoder, pictures.images[:TRAINED], folder, SMALL)
        training = paper_training(
            steps=400,
            batch_size=8,
            learning_rate=1e-3,
            tensorboard=False,
            log_every=400,
            warmup_fraction=0.15,
        )
        denoised = train_denoiser(encoder, pairs, training)
    held_out = [decompose(encoder, image, SMALL) for image in pictures.test_images[:HELD_OUT]]
    return Cleaned(encoder, denoised, held_out)


@cache
def cleaned_vit(*, artifact: bool) -> Cleaned:
    """The trained ViT as it is, or with the pattern on it, cleaned."""
    return cleaned(with_artifact(trained_vit()) if artifact else trained_vit())


def probed(encoder: Encoder, *, seed: int = 0) -> float:
    """mIoU, in percent, of a linear head on its patch features."""
    pictures = scenes()
    train, test = (
        DenseData(features_of(encoder, images), classes)
        for images, classes in (
            (pictures.images, pictures.classes),
            (pictures.test_images, pictures.test_classes),
        )
    )
    training = _training(300, batch_size=16, learning_rate=3e-3, seed=seed)
    return 100 * probe_classes(train, test, classes=5, training=training).mean_iou


def timed_settings() -> Callable[[], Decomposition]:
    """A decomposition by the settings for a CPU: 16 x 16 cells, 192 channels."""
    torch.manual_seed(0)
    encoder = create_encoder("timm/vit_tiny_patch16_224", image_size=256).eval()
    return lambda: decompose(encoder, torch.rand(3, 256, 256), DecompositionSettings.laptop())


def _training(steps: int, **options: Any) -> TrainingSettings:
    return TrainingSettings(steps=steps, warmup_fraction=0.1, log_every=steps, tensorboard=False, **options)
