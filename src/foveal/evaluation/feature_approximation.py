"""How much of one encoder's features a linear map of another's tells (S2, arXiv 2403.13043)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Approximation:
    """What a linear map reaches on images that it was not fitted to.

    Attributes:
        loss: mean squared error L.
        constant_loss: L0, that of the mean of the fitted features, the best constant predictor.
    """

    loss: float
    constant_loss: float

    @property
    def explained(self) -> float:
        """R^2 = 1 - L / L0: 1 when all is told, 0 for the constant predictor, below 0 when worse."""
        return 1 - self.loss / self.constant_loss

    @property
    def information(self) -> float:
        """-log(L / L0) = -log(1 - R^2) in nats: a bound on the mutual information for Gaussian features."""
        return math.inf if self.loss == 0 else -math.log(self.loss / self.constant_loss)

    def relative_to(self, reference: Approximation) -> float:
        """Share of the information that a reference has, such as a second large model."""
        return self.information / reference.information


def approximate_features(
    inputs: Tensor,
    targets: Tensor,
    test_inputs: Tensor,
    test_targets: Tensor,
    *,
    ridge: float = 1e-4,
) -> Approximation:
    """Fit a linear map with a constant at every position, and measure it on other images.

    Args:
        inputs: (B, N, C) features to fit from, e.g. multi-scale features of a small model.
        targets: (B, N, D) features to tell, e.g. those of a larger model on the same grid.
        test_inputs: (B', N, C) of other images.
        test_targets: (B', N, D) of those.
        ridge: penalty, as a share of the mean variance of the inputs.

    Raises:
        ValueError: positions that do not match, or targets that do not vary.
    """
    for given, wanted in ((inputs, targets), (test_inputs, test_targets)):
        if given.ndim != 3 or given.shape[:2] != wanted.shape[:2]:
            raise ValueError(
                f"features of shape {tuple(given.shape)} for targets of shape {tuple(wanted.shape)}; "
                "allowed: (B, N, C) and (B, N, D) on the same grid"
            )
    x, y = inputs.flatten(0, 1).double(), targets.flatten(0, 1).double()
    x_mean, y_mean = x.mean(dim=0), y.mean(dim=0)
    x, y = x - x_mean, y - y_mean
    gram = x.T @ x
    penalty = ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    # The pseudo-inverse also takes inputs that do not vary, and gives them no weight.
    weights = torch.linalg.pinv(gram + penalty, hermitian=True) @ (x.T @ y)
    left = test_targets.double() - y_mean
    constant = float(left.square().mean())
    if constant == 0:
        raise ValueError("the targets do not vary, so nothing about them can be told")
    left = left - (test_inputs.double() - x_mean) @ weights
    return Approximation(float(left.square().mean()), constant)
