"""Samples of images, labelled or not: augmentation and mixing that depend on the seed alone."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from timm.data.transforms import CenterCropOrPad, ResizeKeepRatio
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import default_collate
from torchvision.transforms import v2

from foveal.blocks.channel_tokens import ABSENT
from foveal.scans.image_splits import LoadedImages
from foveal.scans.labelled_images import LabelledSplit
from foveal.settings import Settings


class ImageAugmentation(Settings):
    """How training images are changed, by torchvision's transforms; the defaults suit most medical images."""

    crop: float = Field(0.7, gt=0, le=1, description="least share of the image that a crop keeps; 1 is off")
    crop_mode: Literal["resized", "keep_ratio"] = Field(
        "resized",
        description="a random crop resized, or timm's rkrc: random scale and aspect, then the middle",
    )
    horizontal_flip: float = Field(0.5, ge=0, le=1, description="probability")
    vertical_flip: float = Field(0.0, ge=0, le=1, description="probability")
    rotation: float = Field(10.0, ge=0, le=180, description="largest angle, degrees")
    brightness: float = Field(0.15, ge=0, description="largest relative change")
    contrast: float = Field(0.15, ge=0, description="largest relative change")
    saturation: float = Field(0.0, ge=0, description="largest relative change; of colour images")
    policy: Literal["none", "trivial", "rand", "augmix"] = Field(
        "none", description="TrivialAugment (ICCV 2021), RandAugment (2020) or AugMix (ICLR 2020) besides"
    )
    augmix_alpha: float = Field(1.0, gt=0, description="of AugMix's Beta and Dirichlet distributions")
    erase: float = Field(0.0, ge=0, le=1, description="probability of an erased rectangle")


class ImageSamples:
    """Training samples `images` (C, size, size) in [0, 1], for `foveal.training.fit`.

    Args:
        loaded: the images.
        size: pixels along each side.
        channels: as many as the images have, or 1 or 3 of images of 1 or 3: grey images are repeated, colours
            are turned into grey by their luminance.
        augmentation: None changes nothing.

    Raises:
        ValueError: channels that cannot be made of those of the images.
    """

    present: Tensor | None = None  # (N, C) bool where images lack channels

    def __init__(
        self,
        loaded: LoadedImages[Any],
        *,
        size: int,
        channels: int,
        augmentation: ImageAugmentation | None = None,
    ) -> None:
        given = loaded.array.shape[3] if loaded.array.ndim == 4 else 1
        if channels != given and not {channels, given} <= {1, 3}:
            raise ValueError(
                f"images have {given} channels (the last axis) and the model takes {channels}; set "
                f"in_channels to {given}"
            )
        self.loaded, self.size, self.channels = loaded, size, channels
        self.augment = None if augmentation is None else _transforms(augmentation, size, channels)

    def __len__(self) -> int:
        return len(self.loaded)

    def sample(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        """Image `index`, augmented by draws from `generator` alone."""
        image = self._image(index)
        if self.augment is not None:
            with _seeded(_draw_seed(generator)):
                image = self._augmented(image)
        return {"images": self._to_size(image)[0]}

    def batches(self, batch_size: int) -> Iterator[Tensor]:
        """All images in order and as they are, (B, C, size, size) in [0, 1]."""
        for start in range(0, len(self), batch_size):
            stop = min(start + batch_size, len(self))
            yield torch.cat([self._to_size(self._image(index)) for index in range(start, stop)])

    def channel_statistics(self, most: int = 4096) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel over at most so many images, evenly spaced.

        Images do not count for a channel that they lack. Where nothing varies the deviation is taken to be
        1/255.
        """
        total = torch.zeros(2, self.channels, dtype=torch.float64)
        chosen = np.unique(np.linspace(0, len(self) - 1, min(most, len(self))).astype(int))
        for index in chosen:
            image = self._image(int(index)).double() / 255
            there = 1.0 if self.present is None else self.present[int(index)]
            total += torch.stack([image.mean((1, 2)), image.square().mean((1, 2))]) * there
        counts = len(chosen) if self.present is None else self.present[chosen].sum(dim=0).clamp_min(1)
        mean, square = total / counts
        std = (square - mean.square()).clamp_min(0).sqrt().clamp_min(1 / 255)
        return tuple(round(v, 6) for v in mean.tolist()), tuple(round(v, 6) for v in std.tolist())

    def _image(self, index: int) -> Tensor:
        """(C, h, w) uint8, at the size at which it is kept."""
        pixels = torch.from_numpy(np.array(self.loaded.image(index)))
        image = pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)
        if len(image) == self.channels:
            return image.contiguous()
        if self.channels == 1:
            return v2.functional.rgb_to_grayscale(image)
        return image.expand(self.channels, -1, -1).contiguous()

    def _augmented(self, image: Tensor) -> Tensor:
        """Colours are changed together; channels of another number like as many grey images, all alike."""
        assert self.augment is not None
        if self.channels in (1, 3):
            return self.augment(image)
        return self.augment(image[:, None])[:, 0]

    def _to_size(self, image: Tensor) -> Tensor:
        """(1, C, size, size) float in [0, 1]."""
        floats = v2.functional.to_dtype(image, torch.float32, scale=True)[None]
        if floats.shape[-2:] == (self.size, self.size):
            return floats
        smaller = max(floats.shape[-2:]) > self.size
        return F.interpolate(
            floats, size=(self.size, self.size), mode="bilinear", align_corners=False, antialias=smaller
        )


class LabelledSamples(ImageSamples):
    """The same with `labels`, and a `mixing_seed` for `mixed_batches`.

    Where images lack channels, samples have `channels` (C,) too: their indices, with `ABSENT` for those that
    are missing, whose pixels are 0.
    """

    channel_rows: Tensor | None = None  # (N, C) indices of all images

    def __init__(self, loaded: LoadedImages[LabelledSplit], **options: Any) -> None:
        super().__init__(loaded, **options)
        self.labels = torch.from_numpy(loaded.split.labels)
        there = loaded.split.channels
        if there is not None:
            if there.shape[1] != self.channels:
                raise ValueError(
                    f"images tell which of {there.shape[1]} channels they have, and the model takes "
                    f"{self.channels}; set in_channels to {there.shape[1]}"
                )
            self.present = torch.from_numpy(there)
            self.channel_rows = torch.where(self.present, torch.arange(self.channels), ABSENT)

    def sample(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        """Image `index`, augmented by draws from `generator` alone, with its label."""
        image = super().sample(index, generator)
        if self.channel_rows is not None:
            image["channels"] = self.channel_rows[index]
        return {**image, "labels": self.labels[index], "mixing_seed": _draw_seed(generator)}

    def _image(self, index: int) -> Tensor:
        image = super()._image(index)
        return image if self.present is None else image * self.present[index, :, None, None]


def mixed_batches(
    classes: int, *, mixup: float = 0.0, cutmix: float = 0.0
) -> Callable[[Sequence[dict[str, Any]]], dict[str, Any]]:
    """Collate function that mixes the images of a batch: MixUp (ICLR 2018), CutMix (ICCV 2019), or either.

    What is drawn depends on the samples' own seeds alone, so a run that is resumed mixes the same.

    Args:
        classes: number K of classes; labels (B,) become probabilities (B, K).
        mixup: alpha of MixUp; 0 is off.
        cutmix: alpha of CutMix; 0 is off. Where both are on, each batch takes one of them.
    """
    kinds = [v2.MixUp(alpha=mixup, num_classes=classes)] if mixup > 0 else []
    kinds += [v2.CutMix(alpha=cutmix, num_classes=classes)] if cutmix > 0 else []
    mix = v2.RandomChoice(kinds) if kinds else None

    def collate(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        seed = samples[0]["mixing_seed"]
        batch = default_collate(
            [{key: sample[key] for key in sample if key != "mixing_seed"} for sample in samples]
        )
        if mix is not None and len(samples) > 1:
            with _seeded(seed):
                batch["images"], batch["labels"] = mix(batch["images"], batch["labels"])
        return batch

    return collate


_POLICIES: dict[str, Callable[..., Any]] = {
    "trivial": v2.TrivialAugmentWide,
    "rand": v2.RandAugment,
    "augmix": v2.AugMix,
}


def _transforms(settings: ImageAugmentation, size: int, channels: int) -> Callable[[Tensor], Tensor]:
    steps: list[Any] = []
    if settings.policy != "none":
        options = {"alpha": settings.augmix_alpha} if settings.policy == "augmix" else {}
        steps.append(_POLICIES[settings.policy](**options))
    if settings.rotation:
        steps.append(v2.RandomRotation(settings.rotation, interpolation=v2.InterpolationMode.BILINEAR))
    if settings.crop < 1 and settings.crop_mode == "keep_ratio":
        steps += [
            ResizeKeepRatio(
                size,
                random_scale_prob=0.5,
                random_scale_range=(settings.crop, 1.0),
                random_scale_area=True,
                random_aspect_prob=0.5,
                random_aspect_range=(0.9, 1 / 0.9),
            ),
            CenterCropOrPad(size, padding_mode="reflect"),
        ]
    elif settings.crop < 1:
        steps.append(v2.RandomResizedCrop(size, scale=(settings.crop, 1.0), antialias=True))
    if settings.horizontal_flip:
        steps.append(v2.RandomHorizontalFlip(settings.horizontal_flip))
    if settings.vertical_flip:
        steps.append(v2.RandomVerticalFlip(settings.vertical_flip))
    saturation = settings.saturation if channels == 3 else 0.0
    if settings.brightness or settings.contrast or saturation:
        steps.append(v2.ColorJitter(settings.brightness, settings.contrast, saturation))
    if settings.erase:
        steps.append(v2.RandomErasing(settings.erase))
    return v2.Compose(steps) if steps else v2.Identity()


def _draw_seed(generator: torch.Generator) -> int:
    return int(torch.randint(2**31 - 1, (), generator=generator))


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """The generators that torchvision (torch's) and timm (Python's) draw from, seeded, then as they were."""
    state, python_state = torch.get_rng_state(), random.getstate()
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(state)
        random.setstate(python_state)
