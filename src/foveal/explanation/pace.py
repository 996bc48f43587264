"""PACE: concepts of a frozen model's patches, for a data set, an image and a patch (arXiv 2406.12649)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from foveal.explanation.cam import enlarged
from foveal.explanation.methods import Question, register_method
from foveal.explanation.pace_inference import Concepts, Posterior, Start, Weighting, infer
from foveal.explanation.pace_tokens import ReadTokens, TokenSettings, read_tokens
from foveal.models.pretrained import PretrainedModel
from foveal.settings import Settings


class PaceSettings(TokenSettings):
    """How concepts are found; the defaults are the paper's and its code's, but for what is said to differ."""

    concepts: int = Field(100, ge=1, description="K, as many as are allowed: parsimony is fewer")
    dimensions: int = Field(25, ge=1, description="d, to which the tokens are reduced")
    reducer: Literal["random", "pca"] = Field(
        "random", description="a random Gaussian projection, as the paper's code in effect, or principal axes"
    )
    start_means: Literal["k-means++", "normal"] = Field(
        "k-means++", description="clusters of a sample, or the code's 10 N(0, I), a far worse start"
    )
    alpha: float | tuple[float, ...] = Field(2.0, description="of the Dirichlet prior, one or K")
    weighting: Weighting = Field(
        "power", description="the likelihood raised to the attention; see `pace_inference.Shares`"
    )
    start: Start = Field("even", description="of the E-step; the code's is random")
    iterations: int = Field(10, ge=1, description="of the E-step")
    faithfulness: float = Field(1.0, ge=0, description="weight of the model's soft labels; 0 is off")
    stability: float = Field(1.0, ge=0, description="weight of the contrastive term; 0 is off")
    temperature: float = Field(0.1, gt=0, description="of the contrastive term")
    keep: float = Field(0.75, ge=0, lt=1, description="share of the old statistics at each batch")
    prior_strength: float = Field(500.0, ge=0, description="n0; 0 leaves the prior out")
    prior_counts: Literal["tokens", "steps"] = Field(
        "tokens", description="what n0 stands against: tokens seen by the concept, or batches as in the code"
    )
    prior_spread: Literal["within", "identity"] = Field(
        "within",
        description="covariance of the prior: of the sample within its clusters, or the paper's identity, "
        "which is that of all tokens together and lets the commonest concept take them all",
    )
    ridge: float = Field(1e-4, gt=0, description="added to covariances, of tokens of mean variance 1")
    label_learning_rate: float = Field(
        1.0, gt=0, description="of eta, below 4; the paper's 0.01 hardly moves it in one pass"
    )
    label_steps: int = Field(10, ge=1, description="of eta at each batch; the paper takes 1")
    epochs: int = Field(1, ge=1)
    batch_size: int = Field(16, ge=1)
    sample_images: int = Field(256, ge=1, description="first images, for the reduction and the first means")
    reseed_after: int = Field(10, ge=1, description="batches after which a concept without tokens moves")
    seed: int = 2021


class ConceptConfig(Settings):
    """Everything that rebuilds a `ConceptModel`, but for the model that it looks into."""

    fitted: PaceSettings
    width: int = Field(ge=1, description="D, of the model's tokens")
    classes: int = Field(0, ge=0, description="N; 0 of an encoder without classes")
    class_names: tuple[str, ...] = ()


class ConceptModel(PretrainedModel):
    """Fitted concepts: a reduction of tokens and K Gaussians; saved and loaded as any model.

    Attributes:
        shift, projection: (D,) and (D, d); reduced tokens are (e - shift) @ projection.
        mean, covariance: (K, d) and (K, d, d), float64.
        alpha: (K,).
        eta: (N, K) logits of classes by concept; above the mean of its column speaks for the class.
        prevalence: (K,) share of all attention that each concept has, sums to 1.

    Raises:
        ValueError: more dimensions than the tokens have, or an alpha that does not fit.
    """

    Config = ConceptConfig
    shift: Tensor
    projection: Tensor
    mean: Tensor
    covariance: Tensor
    alpha: Tensor
    eta: Tensor
    prevalence: Tensor

    def __init__(self, config: ConceptConfig) -> None:
        super().__init__()
        self.config = config
        count, dim, width = config.fitted.concepts, config.fitted.dimensions, config.width
        if dim > width:
            raise ValueError(f"dimensions is {dim}, the model's tokens have {width}; allowed: 1 to {width}")
        alpha = torch.as_tensor(config.fitted.alpha, dtype=torch.float64)
        if (alpha.ndim and alpha.shape != (count,)) or not bool((alpha > 0).all()):
            raise ValueError(f"alpha is {config.fitted.alpha}; allowed: a number above 0, or {count} of them")
        self.register_buffer("shift", torch.zeros(width))
        self.register_buffer("projection", torch.eye(width, dim))
        self.register_buffer("mean", torch.zeros(count, dim).double())
        self.register_buffer("covariance", torch.eye(dim).double().repeat(count, 1, 1))
        self.register_buffer("alpha", alpha.expand(count).clone())
        self.register_buffer("eta", torch.zeros(config.classes, count).double())
        self.register_buffer("prevalence", torch.ones(count).double() / count)

    @property
    def concepts(self) -> Concepts:
        """The Gaussians and what they say of classes."""
        return Concepts(self.mean, self.covariance, self.alpha, self.eta if len(self.eta) else None)

    def reduce(self, embeddings: Tensor) -> Tensor:
        """(..., D) tokens to (..., d), of a mean variance of about 1.

        Raises:
            ValueError: tokens of another width.
        """
        if embeddings.shape[-1] != self.config.width:
            raise ValueError(
                f"tokens of shape {tuple(embeddings.shape)}; these concepts are of tokens of width "
                f"{self.config.width}: use the model and the layer that they were fitted to"
            )
        return (embeddings - self.shift.to(embeddings)) @ self.projection.to(embeddings)

    def infer(self, read: ReadTokens) -> Posterior:
        """Concepts of new images, by the E-step without label and augmented view."""
        fitted = self.config.fitted
        return infer(
            self.reduce(read.embeddings),
            read.weights,
            self.concepts,
            weighting=fitted.weighting,
            iterations=fitted.iterations,
            start=fitted.start,
            seed=fitted.seed,
        )

    def forward(self, read: ReadTokens) -> Tensor:
        """(B, K) mixtures of concepts."""
        return self.infer(read).theta

    def order(self) -> list[int]:
        """Numbers of the concepts, the most prevalent first."""
        return self.prevalence.argsort(descending=True, stable=True).tolist()


@dataclass(frozen=True, eq=False)
class ImageConcepts:
    """Concepts of a batch of images.

    Attributes:
        posterior: gamma (B, K), theta (B, K) and phi (B, J, K) of all tokens.
        read: the tokens, with the model's probabilities.
    """

    posterior: Posterior
    read: ReadTokens

    @property
    def theta(self) -> Tensor:
        """(B, K) mixture of concepts of each image; sums to 1."""
        return self.posterior.theta

    @property
    def maps(self) -> Tensor:
        """(B, K, *grid) chance that a patch is of a concept; sums to 1 over concepts."""
        return self.read.maps(self.posterior.phi).movedim(-1, 1)


class Pace:
    """A model with its concepts.

    Args:
        model: images to logits or `Features`, in evaluation mode; nothing of it is changed.
        fitted: concepts of this very model.

    Example:
        >>> import timm, torch
        >>> from foveal.explanation import explain
        >>> from foveal.explanation.pace_fitting import fit_pace
        >>> vit = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, num_classes=3).eval()
        >>> images = torch.rand(8, 3, 32, 32)
        >>> pace = fit_pace(vit, images, concepts=4, dimensions=6)
        >>> found = pace.explain(images)
        >>> found.theta.shape, found.maps.shape
        (torch.Size([8, 4]), torch.Size([8, 4, 4, 4]))
        >>> explain(vit, images, 1, method="pace", trained=pace).shape
        torch.Size([8, 32, 32])
    """

    def __init__(self, model: nn.Module, fitted: ConceptModel) -> None:
        self.model, self.fitted = model, fitted

    def read(self, images: Tensor) -> ReadTokens:
        """Tokens, attention and probabilities of images, by one pass."""
        fitted = self.fitted.config.fitted
        names = TokenSettings.model_fields
        return read_tokens(self.model, images, TokenSettings(**{n: getattr(fitted, n) for n in names}))

    @torch.no_grad()
    def explain(self, images: Tensor) -> ImageConcepts:
        """Concepts of images (B, C, ...), as the model takes them, by one forward pass."""
        read = self.read(images)
        return ImageConcepts(self.fitted.infer(read), read)

    def theta(self, images: Tensor, *, batch_size: int = 64) -> Tensor:
        """(N, K) mixtures of many images."""
        return torch.cat([self.explain(part).theta for part in images.split(batch_size)])

    def concept_map(self, images: Tensor, concept: int) -> Tensor:
        """(B, *sides) chance in [0, 1] of a concept, enlarged to the images.

        Raises:
            ValueError: there is no such concept.
        """
        count = self.fitted.config.fitted.concepts
        if not 0 <= concept < count:
            raise ValueError(f"concept {concept}; allowed: 0 to {count - 1}")
        return enlarged(self.explain(images).maps[:, concept], images)

    def relevance(self, images: Tensor, weights: Tensor) -> Tensor:
        """(B, *sides) what patches' concepts say for the classes that weigh (B, N), above the classes' mean.

        Its mean over patches is the concepts' own logit of the class, centred.

        Raises:
            ValueError: the concepts know no classes, or others than the weights.
        """
        eta = self.fitted.eta
        if weights.shape != (len(images), len(eta)):
            raise ValueError(
                f"weights of shape {tuple(weights.shape)}; the concepts were fitted with {len(eta)} classes"
                + ("" if len(eta) else ": name a concept, concept=...")
            )
        each = weights.to(eta) @ (eta - eta.mean(dim=0))
        maps = torch.einsum("bk,bk...->b...", each.to(images), self.explain(images).maps)
        return enlarged(maps, images)


@register_method("pace", "trained")
def pace(asked: Question, *, trained: Pace | str | Path | None = None, concept: int | None = None) -> Tensor:
    """What patches' concepts say for a class, or where a concept is (PACE, arXiv 2406.12649).

    `trained` is a `Pace` of this very model, or the folder of saved concepts; `concept` asks for the chance
    of one concept instead of the class.
    """
    if trained is None:
        raise ValueError("pace needs trained=fit_pace(model, images), or the folder of saved concepts")
    if not isinstance(trained, Pace):
        trained = Pace(asked.model, ConceptModel.from_pretrained(trained).to(asked.images.device))
    if trained.model is not asked.model:
        raise ValueError("the concepts belong to another model; build Pace on the model to be explained")
    if concept is not None:
        return trained.concept_map(asked.images, concept)
    if asked.weights.ndim != 2:
        raise ValueError("pace explains classifiers; of a segmenter name a concept, concept=...")
    return trained.relevance(asked.images, asked.weights)


def drivers(fitted: ConceptModel, *, count: int = 3) -> list[list[tuple[int, float]]]:
    """For each class the concepts that speak most for it: (concept, eta above the classes' mean)."""
    centred = fitted.eta - fitted.eta.mean(dim=0) if len(fitted.eta) else fitted.eta
    best = centred.topk(min(count, centred.shape[1]), dim=1)
    rows: Sequence[tuple[list[int], list[float]]] = list(
        zip(best.indices.tolist(), best.values.tolist(), strict=True)
    )
    return [list(zip(numbers, values, strict=True)) for numbers, values in rows]
