import pytest
import torch
from torch import nn

from foveal.encoders import create_encoder
from foveal.objectives.feature_matching import FeatureDistillation, FeatureMatching, feature_distance


def test_the_distance_is_squared_error_and_angle():
    a = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    b = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert float(feature_distance(a, b)) == pytest.approx((4 + 0 + 1 + 1) / 4 + 1 - 0.5)
    assert float(feature_distance(a, a)) == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="both are equal"):
        feature_distance(a, b[:1])


def test_matching_trains_the_network_on_stored_pairs():
    objective = FeatureMatching(nn.Linear(3, 3))
    objective({"features": torch.randn(2, 4, 4, 3), "targets": torch.randn(2, 4, 4, 3)})["loss"].backward()
    assert objective.network.weight.grad is not None


def test_distillation_moves_the_student_alone():
    settings = {"widths": (4, 8), "in_channels": 3}
    student, teacher = (create_encoder("conv-pyramid", **settings) for _ in range(2))
    objective = FeatureDistillation(student, teacher).train()
    objective({"images": torch.rand(2, 3, 32, 32)})["loss"].backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert any(p.grad is not None for p in student.parameters())
    assert not teacher.training


def test_encoders_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="both are equal"):
        FeatureDistillation(
            create_encoder("conv-pyramid", widths=(4, 8)), create_encoder("conv-pyramid", widths=(4, 6))
        )
