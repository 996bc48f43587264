"""Distillation: by hand, frozen teacher, nothing of it saved."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from foveal.objectives.classification import ClassificationObjective
from foveal.objectives.distillation import DistillationObjective


def parts():
    torch.manual_seed(0)
    student, teacher = (nn.Sequential(nn.Flatten(), nn.Linear(12, 3)) for _ in range(2))
    batch = {"images": torch.randn(5, 3, 2, 2), "labels": torch.arange(5) % 3}
    return student, teacher, batch


def test_the_loss_is_that_by_hand() -> None:
    student, teacher, batch = parts()
    objective = DistillationObjective(ClassificationObjective(student), teacher, share=0.25, temperature=2.0)
    found = objective(batch)
    own = F.cross_entropy(student(batch["images"]), batch["labels"])
    p, q = ((m(batch["images"]) / 2).softmax(1) for m in (teacher, student))
    apart = 4 * (p * (p / q).log()).sum(1).mean()
    assert found["loss"].item() == pytest.approx((0.75 * own + 0.25 * apart).item(), rel=1e-5)
    assert found["teacher"].item() == pytest.approx(apart.item(), rel=1e-5)


def test_the_teacher_is_neither_trained_nor_saved() -> None:
    student, teacher, batch = parts()
    objective = DistillationObjective(ClassificationObjective(student), teacher)
    objective(batch)["loss"].backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert {name for name, _ in objective.named_parameters()} == {
        "objective.model.1.weight",
        "objective.model.1.bias",
    }


def test_findings_and_wrong_settings() -> None:
    student, teacher, batch = parts()
    batch["labels"] = torch.rand(5, 3)
    inner = ClassificationObjective(student, several=True)
    found = DistillationObjective(inner, teacher, share=1.0, several=True)(batch)
    wanted = F.binary_cross_entropy_with_logits(student(batch["images"]), teacher(batch["images"]).sigmoid())
    assert found["loss"].item() == pytest.approx(wanted.item(), rel=1e-5)
    with pytest.raises(ValueError, match="allowed: 0 to 1"):
        DistillationObjective(inner, teacher, share=2)
