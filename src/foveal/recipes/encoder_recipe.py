"""What the recipes of encoders share: a classifier on the encoder, trained through the one loop.

A recipe of an encoder names its encoder and settings, and is then trained by `foveal train NAME --data DATA`:

    class VimSettings(EncoderSettings):
        dim: int = 192

    class Vim(EncoderRecipe[VimSettings]):
        card = Card(slug="vim", ...)
        Settings = VimSettings

        def encoder_config(self, settings: VimSettings) -> tuple[str, dict[str, Any]]:
            return "vim", {"dim": settings.dim, "image_size": settings.image_size}
"""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import Field

from foveal.objectives.classification_settings import ClassificationSettings
from foveal.recipes.base import Recipe

if TYPE_CHECKING:
    from foveal.models.classifier import Classifier, ClassifierConfig
    from foveal.objectives.base import Objective
    from foveal.objectives.classification import ClassificationObjective


class EncoderSettings(ClassificationSettings):
    """Settings of a recipe that is an encoder; a recipe adds its own and its paper's defaults."""

    image_size: int = Field(224, ge=16, description="pixels along each side of the square input")
    in_channels: int = Field(3, ge=1, description="channels of the input; 3 is what screening gives")
    classes: tuple[str, ...] = Field((), description="in the order of the labels; () takes the data's names")
    encoder_settings: dict[str, Any] = Field(
        default_factory=dict, description="changes to the encoder's settings, e.g. patch_size"
    )


class MixedSettings(EncoderSettings):
    """Smoothed labels and images mixed in pairs, as DeiT is trained (arXiv 2012.12877) and many after it."""

    label_smoothing: float = Field(0.1, ge=0, lt=1)
    mixup: float = Field(0.8, ge=0, description="alpha of MixUp's Beta distribution; 0 is off")
    cutmix: float = Field(1.0, ge=0, description="alpha of CutMix's Beta distribution; 0 is off")


def _deit_augmentation() -> dict[str, Any]:
    return {"crop": 0.08, "rotation": 0.0, "policy": "rand", "erase": 0.25}


class DeitSettings(MixedSettings):
    """DeiT's augmentation too."""

    augmentation: dict[str, Any] = Field(
        default_factory=_deit_augmentation, description="of ImageAugmentation"
    )


def deit_training(**changes: Any) -> dict[str, Any]:
    """DeiT's schedule as `TrainingSettings`: 300 epochs of ImageNet-1k, 1251 steps each; with `changes`."""
    schedule = {
        "steps": 300 * 1251,
        "batch_size": 1024,
        "learning_rate": 1e-3,
        "weight_decay": 0.05,
        "warmup_steps": 5 * 1251,
    }
    return schedule | changes


E = TypeVar("E", bound=EncoderSettings)


class EncoderRecipe(Recipe[E], abstract=True):
    """A recipe whose system is an encoder: `build` puts a linear head on it, `train` fits both to images."""

    @abstractmethod
    def encoder_config(self, settings: E) -> tuple[str, dict[str, Any]]:
        """Name and settings for `create_encoder`; `in_channels` and `encoder_settings` are added to them."""

    def classifier_config(self, settings: E, *, classes: tuple[str, ...] = ()) -> ClassifierConfig:
        """What rebuilds the classifier.

        Args:
            settings: of the recipe; its `classes` come before the argument.
            classes: names where the settings give none; "negative" and "positive" where neither does.
        """
        from foveal.models.classifier import ClassifierConfig

        name, encoder_settings = self.encoder_config(settings)
        channels = {"in_channels": settings.in_channels}
        return ClassifierConfig(
            encoder=name,
            encoder_settings={**channels, **encoder_settings, **settings.encoder_settings},
            classes=settings.classes or classes or ("negative", "positive"),
            size=settings.image_size,
            mean=settings.mean or (0.5,) * settings.in_channels,
            std=settings.std or (0.25,) * settings.in_channels,
        )

    def objective(self, settings: E, plain: ClassificationObjective) -> Objective:
        """What training minimises: the classification loss, or a recipe's own around it."""
        return plain

    def build(self, settings: E) -> Classifier:
        """The untrained classifier: images (B, in_channels, image_size, image_size) in [0, 1] to logits."""
        from foveal.models.classifier import Classifier

        return Classifier(self.classifier_config(settings))

    def train(self, settings: E, *, data: Path | None, out: Path) -> None:
        """Train on labelled images; tells the scores and saves the model to `out`/model.

        Args:
            settings: hyper-parameters.
            data: a MedMNIST `.npz` file, or a folder of images in one folder a class.
            out: receives the model, predictions, checkpoints and log; see `train_classifier`.

        Raises:
            ValueError: no data, or data that cannot be learnt from; see `read_labelled_images`.
        """
        from rich.console import Console

        from foveal.scans.labelled_images import read_labelled_images
        from foveal.training.classification import train_classifier

        if data is None:
            raise ValueError(
                f"recipe {self.card.slug!r} needs labelled images; name a .npz file or a folder with --data"
            )
        images = read_labelled_images(data)
        config = self.classifier_config(settings, classes=images.classes)
        trained = train_classifier(
            config, images, settings, out, objective=lambda plain: self.objective(settings, plain)
        )
        console = Console(soft_wrap=True, highlight=False)
        for split, scores in trained.scores.items():
            told = ", ".join(
                f"{name.replace('_', ' ')} {value:.3f} ({low:.3f} to {high:.3f})"
                for name, (value, low, high) in scores._asdict().items()
            )
            console.print(f"{split}, {trained.images[split]} images: {told}", markup=False)
        if trained.skipped:
            console.print(f"{len(trained.skipped)} images left out, see {out / 'skipped.csv'}", markup=False)
        console.print(f"model: {out / 'model'}", markup=False)
