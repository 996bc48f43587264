"""Learning from a teacher's logits: a classifier made smaller keeps what the whole one knew."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.objectives.base import Batch, Objective


class DistillationObjective(Objective):
    """(1 - share) of another objective and `share` of the divergence from a teacher (arXiv 1503.02531).

    The divergence is KL(teacher || student) of the classes at a temperature, times its square; where an image
    may have several findings, the binary cross-entropy with the teacher's probabilities.

    Args:
        objective: with the student as its `model`.
        teacher: images (B, C, H, W) to logits (B, K); it is frozen, and not saved with the student.
        share: of the teacher, 0 to 1.
        temperature: above 0.
        several: an image may have any number of findings.
    """

    def __init__(
        self,
        objective: Objective,
        teacher: nn.Module,
        *,
        share: float = 0.5,
        temperature: float = 1.0,
        several: bool = False,
    ) -> None:
        super().__init__()
        if not 0 <= share <= 1 or not temperature > 0:
            raise ValueError(f"share is {share}, temperature {temperature}; allowed: 0 to 1, and above 0")
        self.objective = objective
        self.share, self.temperature, self.several = share, temperature, several
        # In a tuple it is no part of the module: neither trained nor kept in checkpoints.
        self._teacher = (teacher.eval().requires_grad_(False),)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`loss`, and its parts `own` and `teacher`."""
        logits: list[Tensor] = []
        handle = self.objective.model.register_forward_hook(  # type: ignore[union-attr, operator]
            lambda _module, _inputs, output: logits.append(output)
        )
        try:
            own = self.objective(batch)["loss"]
        finally:
            handle.remove()
        (teacher,) = self._teacher
        with torch.no_grad():
            told = teacher.to(logits[0].device)(batch["images"]).float() / self.temperature
        said = logits[0].float() / self.temperature
        if self.several:
            apart = F.binary_cross_entropy_with_logits(said, told.sigmoid())
        else:
            apart = F.kl_div(
                said.log_softmax(dim=1), told.log_softmax(dim=1), reduction="batchmean", log_target=True
            )
        apart = apart * self.temperature**2
        return {"loss": (1 - self.share) * own + self.share * apart, "own": own, "teacher": apart}
