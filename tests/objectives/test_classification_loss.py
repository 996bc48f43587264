import pytest
import torch
from torch import nn
from torch.nn import functional as F

from foveal.objectives.classification import ClassificationObjective

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.0, 1.0, 3.0]])


def test_one_class_an_image_has_smoothed_cross_entropy():
    objective = ClassificationObjective(nn.Identity(), label_smoothing=0.3)
    loss = objective({"images": LOGITS, "labels": torch.tensor([0, 2])})["loss"]
    targets = 0.7 * F.one_hot(torch.tensor([0, 2]), 3) + 0.1
    torch.testing.assert_close(loss, -(targets * LOGITS.log_softmax(1)).sum(1).mean())


def test_class_probabilities_are_targets_too():
    objective = ClassificationObjective(nn.Identity())
    hard = objective({"images": LOGITS, "labels": torch.tensor([0, 2])})["loss"]
    soft = objective({"images": LOGITS, "labels": F.one_hot(torch.tensor([0, 2]), 3).float()})["loss"]
    torch.testing.assert_close(hard, soft)


def test_several_findings_have_binary_cross_entropy():
    objective = ClassificationObjective(nn.Identity(), several=True, label_smoothing=0.2)
    labels = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    loss = objective({"images": LOGITS, "labels": labels})["loss"]
    torch.testing.assert_close(loss, F.binary_cross_entropy_with_logits(LOGITS, 0.8 * labels + 0.1))
    with pytest.raises(ValueError, match=r"labels have shape \(2,\), logits \(2, 3\)"):
        objective({"images": LOGITS, "labels": torch.tensor([0, 2])})


def test_smoothing_of_everything_is_refused():
    with pytest.raises(ValueError, match=r"label_smoothing is 1\.0; allowed"):
        ClassificationObjective(nn.Identity(), label_smoothing=1.0)
