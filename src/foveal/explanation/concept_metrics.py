"""What concepts are worth: faithfulness, stability, sparsity, parsimony (PACE, arXiv 2406.12649)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class ConceptScores:
    """Scores of the concept vectors of a set of images.

    Attributes:
        faithfulness: share of images whose model's label a linear model reads off the vector.
        stability: mean relative change of the vector of a slightly changed image; less is better.
        sparsity: share of entries that are almost 0.
        concepts: how many there are, the parsimony; fewer is better.
    """

    faithfulness: float
    stability: float
    sparsity: float
    concepts: int


def concept_scores(
    train: Tensor,
    train_labels: Tensor,
    test: Tensor,
    test_labels: Tensor,
    changed: Tensor,
    *,
    threshold: float = 1e-2,
) -> ConceptScores:
    """All scores; vectors (M, K) of training images, of test images, and of test images changed slightly."""
    return ConceptScores(
        linear_faithfulness(train, train_labels, test, test_labels),
        relative_change(test, changed),
        sparsity(test, threshold=threshold),
        test.shape[1],
    )


def linear_faithfulness(train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor) -> float:
    """Accuracy on test images of a logistic regression from concept vectors to the model's labels.

    Args:
        train: (M, K) concept vectors, which are standardised by their own mean and deviation.
        train_labels: (M,) classes that the model says.
        test: (L, K).
        test_labels: (L,).

    Raises:
        ValueError: vectors and labels do not match.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    for name, vectors, labels in (("train", train, train_labels), ("test", test, test_labels)):
        if vectors.ndim != 2 or labels.shape != vectors.shape[:1]:
            raise ValueError(
                f"{name}: vectors of shape {tuple(vectors.shape)}, labels of {tuple(labels.shape)}; allowed: "
                "(M, K) and (M,)"
            )
    known = train_labels.unique()
    if len(known) == 1:
        return float((test_labels == known[0]).double().mean())
    read = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    read.fit(_array(train), _array(train_labels))
    return float(read.score(_array(test), _array(test_labels)))


def relative_change(vectors: Tensor, changed: Tensor, *, epsilon: float = 1e-8) -> float:
    """Mean over images of ||theta - theta'|| / (||theta|| + epsilon) of vectors (M, K) before and after.

    Raises:
        ValueError: shapes differ.
    """
    if vectors.shape != changed.shape or vectors.ndim != 2:
        raise ValueError(
            f"vectors of shapes {tuple(vectors.shape)} and {tuple(changed.shape)}; allowed: (M, K) twice"
        )
    moved = (vectors - changed).double().norm(dim=1)
    return float((moved / (vectors.double().norm(dim=1) + epsilon)).mean())


def sparsity(vectors: Tensor, *, threshold: float = 1e-2) -> float:
    """Share of the entries of vectors (M, K) whose size is below a threshold."""
    return float((vectors.abs() < threshold).double().mean())


def _array(values: Tensor) -> np.ndarray:
    return torch.as_tensor(values).detach().cpu().double().numpy()
