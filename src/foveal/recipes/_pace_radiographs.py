"""PACE on radiographs of the chest (PneumoniaMNIST, 28 px), where they are at hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from foveal.encoders import create_encoder
from foveal.explanation.concept_metrics import linear_faithfulness
from foveal.explanation.pace_fitting import fit_pace
from foveal.explanation.pace_pictures import concept_sheet_png, nearest_patches
from foveal.recipes._encoder_learning import Learned, LearningData, learn
from foveal.recipes._pace_comparison import compared
from foveal.recipes._pvbm_reference import DATA
from foveal.recipes.base import Finding, Section

_FILE = DATA / "pneumoniamnist" / "pneumoniamnist_trainval.npz"
_CLASSES = ("normal", "pneumonia")


@cache
def radiographs(train: int = 800, test: int = 300) -> LearningData:
    """The first images of the published training and validation sets, enlarged to 32 px."""
    with np.load(_FILE, allow_pickle=False) as arrays:
        parts = [(arrays[f"{name}_images"][:n], arrays[f"{name}_labels"][:n, 0])
                 for name, n in (("train", train), ("val", test))]  # fmt: skip

    def enlarged(pixels: np.ndarray) -> Tensor:
        values = torch.from_numpy(pixels).float()[:, None] / 255
        return F.interpolate(values, size=(32, 32), mode="bilinear", align_corners=False)

    (images, labels), (held_out, wanted) = parts
    return LearningData(
        enlarged(images), torch.from_numpy(labels).long(), enlarged(held_out), torch.from_numpy(wanted).long()
    )


@cache
def trained_on_radiographs(*, steps: int = 200) -> Learned:
    """A ViT of three blocks over 8 x 8 patches."""
    settings = {"image_size": 32, "patch_size": 4, "embed_dim": 48, "depth": 3, "num_heads": 3}
    return learn(
        lambda: create_encoder("timm/vit_tiny_patch16_224", in_channels=1, **settings),
        radiographs(),
        steps=steps,
        batch_size=32,
    )


def radiographs_of_the_chest(seeds: Sequence[int]) -> Iterator[Finding | Section]:
    """Ten concepts of a small ViT on images that it was not trained on."""
    if not _FILE.is_file():
        yield Section("Radiographs of the chest", f"Not measured: {_FILE.name} is not at hand.")
        return
    learned, data = trained_on_radiographs(), radiographs()
    model = learned.model
    with torch.no_grad():
        said, wanted = model(data.images).argmax(dim=1), model(data.test_images).argmax(dim=1)
    generator = torch.Generator().manual_seed(0)
    noise = 0.02 * torch.randn(data.test_images.shape, generator=generator)
    shuffled = said[torch.randperm(len(said), generator=generator)]
    faithful, above = [], []
    for seed in seeds:
        pace = fit_pace(model, data.images, concepts=10, dimensions=16, seed=seed, class_names=_CLASSES)
        train, test = pace.theta(data.images), pace.theta(data.test_images)
        faithful.append(linear_faithfulness(train, said, test, wanted))
        above.append(faithful[-1] - linear_faithfulness(train, shuffled, test, wanted))
        if seed == seeds[0]:
            sheet = concept_sheet_png(pace.fitted, nearest_patches(pace, data.test_images))
    accuracy = float((learned.probabilities.argmax(axis=1) == learned.labels).mean())
    share = float(wanted.bincount().max()) / len(wanted)
    yield Section(
        "Concepts of radiographs of the chest",
        f"Ten concepts of a ViT that is right on {accuracy:.2f} of {len(wanted)} images of PneumoniaMNIST "
        f"that it was not trained on, and says the commoner class of {share:.2f} of them; the nearest "
        "patches among those. Images: Yang et al. 2023, from Kermany et al. 2018, CC BY 4.0.",
        sheet,
    )
    yield Finding.at_least("radiographs: linear model of the mixture says the ViT's label", faithful, 0.9)
    yield Finding.at_least("radiographs: that above shuffled labels'", above, 0.1)
    changed = (data.test_images + noise).clamp(0, 1)
    yield from compared("radiographs", model, data, changed, concepts=10, seeds=seeds)
