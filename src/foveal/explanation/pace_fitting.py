"""Fitting PACE to a frozen model over images without labels, batch by batch, in bounded memory."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from foveal.explanation.pace import ConceptConfig, ConceptModel, Pace, PaceSettings
from foveal.explanation.pace_inference import Pull, bound, infer, mean_concepts
from foveal.explanation.pace_maximisation import Prior, Statistics, learn_labels, maximise
from foveal.explanation.pace_tokens import ReadTokens, TokenSettings, read_tokens
from foveal.training.randomness import seed_everything, without_touching_randomness

Augment = Callable[[Tensor], Tensor]
_SAMPLE = 20_000  # tokens that the reduction and the first means are found from
_DEAD = 1e-3  # of the mean weight of a concept: below it, it has no tokens


@dataclass(frozen=True)
class FitStep:
    """What is told after each batch: its number from 1, and the mean bound of its images, nats."""

    step: int
    bound: float


def fit_pace(
    model: nn.Module,
    images: Tensor | Iterable[Tensor],
    settings: PaceSettings | None = None,
    *,
    augment: Augment | None = None,
    class_names: Iterable[str] = (),
    on_step: Callable[[FitStep], None] | None = None,
    **options: Any,
) -> Pace:
    """Find concepts of a frozen model's patches.

    Memory is that of a batch and of a sample of tokens, whatever the number of images.

    Args:
        model: images to logits or `Features`, in evaluation mode; it stays as it is.
        images: (N, C, ...), shuffled once by the seed; or batches (B, C, ...) that can be gone through
            several times, such as a list or a data loader, in an order without system.
        settings: see `PaceSettings`.
        augment: from a batch to changed views of its images, for the stability term; `stable_views` by
            default, whose seed is the settings' and which is different at every batch.
        class_names: in the order of the model's outputs, to be saved with the concepts.
        on_step: called after each batch.
        **options: settings by name, over the others.

    Raises:
        ValueError: settings that do not fit the model, no images, or tokens that are not finite.
    """
    settings = (settings or PaceSettings()).replace(**options)
    batches: Iterable[Tensor] = images if not isinstance(images, Tensor) else _shuffled(images, settings)
    how = TokenSettings(**{name: getattr(settings, name) for name in TokenSettings.model_fields})
    with torch.inference_mode(False), torch.no_grad():
        sample, classes = _sampled(model, batches, settings, how)
        fit = ConceptFit(sample, settings, classes=classes, class_names=class_names)
        step = 0
        for _ in range(settings.epochs):
            for batch in batches:
                view = None
                if settings.stability and len(batch) > 1:
                    changed = augment(batch) if augment else stable_views(batch, seed=settings.seed + step)
                    view = read_tokens(model, changed, how)
                found = fit.step(read_tokens(model, batch, how), view, tell=on_step is not None)
                step += 1
                if on_step is not None and found is not None:
                    on_step(FitStep(step, found))
        return Pace(model, fit.result())


class ConceptFit:
    """Online variational EM over batches of tokens.

    Args:
        sample: (S, D) tokens, at least K of them.
        settings: see `PaceSettings`.
        classes: of the model; 0 where it has none.
        class_names: of the classes.

    Raises:
        ValueError: too few tokens, tokens that are not finite, or more dimensions than they have.
    """

    def __init__(
        self,
        sample: Tensor,
        settings: PaceSettings,
        *,
        classes: int = 0,
        class_names: Iterable[str] = (),
    ) -> None:
        if sample.ndim != 2 or len(sample) < max(2, settings.concepts):
            raise ValueError(
                f"a sample of shape {tuple(sample.shape)} for {settings.concepts} concepts; allowed: (S, D) "
                "with as many tokens as concepts or more: give more images, or ask for fewer concepts"
            )
        if not bool(torch.isfinite(sample).all()):
            raise ValueError("tokens hold NaN or infinity; check the images and the model")
        config = ConceptConfig(
            fitted=settings, width=sample.shape[1], classes=classes, class_names=tuple(class_names)
        )
        self.settings, self.model = settings, ConceptModel(config).to(sample.device)
        self._reduction(sample)
        self._first_concepts(self.model.reduce(sample).double())
        self.running: Statistics | None = None
        self.seen = torch.zeros_like(self.model.alpha)
        self.age = torch.zeros_like(self.seen)
        self.steps = 0

    def step(self, read: ReadTokens, view: ReadTokens | None = None, *, tell: bool = False) -> float | None:
        """E-step of a batch, its augmented view first, then M-step and labels; the mean bound if `tell`."""
        settings, model = self.settings, self.model
        tokens, concepts = model.reduce(read.embeddings), model.concepts
        how: dict[str, Any] = {"weighting": settings.weighting}
        inner: dict[str, Any] = {
            "iterations": settings.iterations,
            "start": settings.start,
            "seed": settings.seed,
        }
        views = None
        if view is not None and settings.stability:
            of_view = infer(model.reduce(view.embeddings), view.weights, concepts, **how, **inner)
            views = mean_concepts(of_view.phi, view.weights, **how)
        labels = read.probabilities if settings.faithfulness and concepts.eta is not None else None
        pull = Pull(labels, views, settings.faithfulness, settings.stability, settings.temperature)
        pull_or_none = None if labels is None and views is None else pull
        found = infer(tokens, read.weights, concepts, pull=pull_or_none, **how, **inner)
        told = None
        if tell:
            told = float(bound(tokens, read.weights, concepts, found, pull=pull_or_none, **how).mean())
        batch = Statistics.of(tokens, read.weights, found.phi)
        self.steps += 1
        self.seen += batch.weight
        self.age += 1
        self.running = (
            batch
            if self.running is None
            else self.running.plus(batch, keep=settings.keep, take=1 - settings.keep)
        )
        self._move_dead(tokens, concepts.log_density(tokens))
        seen = self.seen if settings.prior_counts == "tokens" else torch.full_like(self.seen, self.steps)
        mean, covariance = maximise(self.running, self.prior, seen=seen, ridge=settings.ridge)
        model.mean.copy_(mean)
        model.covariance.copy_(covariance)
        if labels is not None:
            image_means = mean_concepts(found.phi, read.weights, **how)
            eta = learn_labels(
                model.eta,
                image_means,
                labels,
                learning_rate=settings.label_learning_rate,
                steps=settings.label_steps,
            )
            model.eta.copy_(eta)
        return told

    def result(self) -> ConceptModel:
        """The concepts as they are now, in evaluation mode."""
        if self.steps:
            self.model.prevalence.copy_(self.seen / self.seen.sum())
        return self.model.eval()

    def _reduction(self, sample: Tensor) -> None:
        """Centre, project, and scale all dimensions alike so that their mean variance is 1."""
        dim = self.settings.dimensions
        values = sample.double()
        shift = values.mean(dim=0)
        centred = values - shift
        if self.settings.reducer == "pca":
            _, axes = torch.linalg.eigh(centred.mT @ centred)
            axes = axes.flip(1)[:, :dim]
            largest = axes.gather(0, axes.abs().argmax(dim=0, keepdim=True))
            projection = axes * largest.sign()
        else:
            generator = torch.Generator().manual_seed(self.settings.seed)
            projection = torch.randn(sample.shape[1], dim, generator=generator, dtype=torch.float64)
            projection = projection.to(values)
        scale = (centred @ projection).square().mean().sqrt()
        if not float(scale):
            raise ValueError("all tokens of the sample are the same; give images that differ")
        self.model.shift.copy_(shift)
        self.model.projection.copy_(projection / scale)

    def _first_concepts(self, sample: Tensor) -> None:
        """First means and covariances; the means are the prior's too."""
        count, dim = self.settings.concepts, self.settings.dimensions
        eye = torch.eye(dim, dtype=sample.dtype, device=sample.device)
        if self.settings.start_means == "normal":
            generator = torch.Generator().manual_seed(self.settings.seed)
            means = 10 * torch.randn(count, dim, generator=generator, dtype=torch.float64)
            within = eye
        else:
            from sklearn.cluster import KMeans
            from sklearn.exceptions import ConvergenceWarning

            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different tokens than concepts
                found = KMeans(count, n_init=1, max_iter=50, random_state=self.settings.seed)
                found.fit(sample.cpu().numpy())
            means = torch.from_numpy(found.cluster_centers_)
            rest = sample - means.to(sample)[torch.from_numpy(found.labels_).long().to(sample.device)]
            within = rest.mT @ rest / len(rest)
        means = means.to(sample)
        self.within = within + self.settings.ridge * eye
        self.model.mean.copy_(means)
        self.model.covariance.copy_(self.within.expand(count, -1, -1))
        spread = self.within if self.settings.prior_spread == "within" else None
        self.prior = Prior(means.clone(), self.settings.prior_strength, spread)

    def _move_dead(self, tokens: Tensor, density: Tensor) -> None:
        """Concepts that have had no tokens for some batches go where tokens are explained worst."""
        running = self.running
        assert running is not None
        usual = running.weight.mean()
        dead = (running.weight < _DEAD * usual) & (self.age >= self.settings.reseed_after)
        numbers = dead.nonzero()[:, 0]
        if not len(numbers):
            return
        worst = density.amax(dim=-1).flatten().argsort()[: len(numbers)]
        numbers = numbers[: len(worst)]
        places = tokens.flatten(0, 1)[worst].double()
        weight = 0.1 * usual
        self.prior.mean[numbers] = places
        running.weight[numbers] = weight
        running.first[numbers] = weight * places
        spread = places.unsqueeze(2) * places.unsqueeze(1) + self.within
        running.second[numbers] = weight * spread
        self.seen[numbers] = weight
        self.age[numbers] = 0


def stable_views(images: Tensor, *, seed: int, crop: float = 0.5) -> Tensor:
    """Each image changed as a view of the same thing: crop, flip, colours, grey, blur.

    Args:
        images: (B, C, H, W), or (B, C, T, H, W), whose slices are changed alike; of any range, which is that
            of the batch afterwards.
        seed: the same gives the same views.
        crop: least share of the area that is kept.
    """
    from torchvision.transforms import v2

    low = images.amin()
    span = (images.amax() - low).clamp_min(1e-6)
    scaled = (images - low) / span
    if images.ndim == 5:
        scaled = scaled.transpose(1, 2)
    colour = images.shape[1] == 3
    jitter = v2.ColorJitter(0.5, 0.5, 0.5, 0.1) if colour else v2.ColorJitter(0.5, 0.5)
    steps: list[Any] = [
        v2.RandomHorizontalFlip(),
        v2.RandomResizedCrop(tuple(images.shape[-2:]), scale=(crop, 1.0), antialias=True),
        v2.RandomApply([jitter], p=0.8),
        v2.RandomGrayscale(0.2) if colour else v2.Identity(),
        v2.GaussianBlur(9 if min(images.shape[-2:]) >= 64 else 3),
    ]
    change = v2.Compose(steps)
    with without_touching_randomness():
        seed_everything(seed)
        views = torch.stack([change(image) for image in scaled])
    if images.ndim == 5:
        views = views.transpose(1, 2)
    return (views * span + low).contiguous()


def _shuffled(images: Tensor, settings: PaceSettings) -> list[Tensor]:
    generator = torch.Generator().manual_seed(settings.seed)
    order = torch.randperm(len(images), generator=generator)
    return [images[part.to(images.device)] for part in order.split(settings.batch_size)]


def _sampled(
    model: nn.Module, batches: Iterable[Tensor], settings: PaceSettings, how: TokenSettings
) -> tuple[Tensor, int]:
    """Tokens of the first images, and the number of the model's classes."""
    kept: list[Tensor] = []
    images = classes = 0
    for batch in batches:
        read = read_tokens(model, batch, how)
        kept.append(read.embeddings.flatten(0, 1))
        classes = 0 if read.probabilities is None else read.probabilities.shape[1]
        images += len(batch)
        if images >= settings.sample_images:
            break
    if not kept:
        raise ValueError("there are no images to fit concepts to")
    tokens = torch.cat(kept)
    generator = torch.Generator().manual_seed(settings.seed)
    chosen = torch.randperm(len(tokens), generator=generator)[:_SAMPLE]
    return tokens[chosen.to(tokens.device)], classes
