import numpy as np
import pytest
import torch
from torch import nn

from foveal.encoders.base import create_encoder
from foveal.recipes._encoder_learning import accuracy, digits, learn, train_and_score


def small() -> nn.Module:
    return create_encoder("conv-pyramid", widths=[8, 16], in_channels=1)


def test_digits_are_split_evenly_and_the_same_each_time():
    data = digits(16, channels=2, train_images=100)
    assert data.images.shape == (100, 2, 16, 16)
    assert data.test_images.shape == (597, 2, 16, 16)
    assert np.bincount(data.labels).tolist() == [10] * 10
    assert 0 <= data.images.min() < data.images.max() <= 1
    assert torch.equal(digits(16, channels=2, train_images=100).images, data.images)
    assert len(digits(16)) == 1200


def test_an_encoder_learns_digits_and_the_same_seed_gives_the_same():
    data = digits(16)
    torch.manual_seed(7)
    first = learn(small, data, steps=40, batch_size=32, learning_rate=0.01)
    drawn = torch.rand(1)
    assert accuracy(first.probabilities, first.labels) > 0.5
    torch.manual_seed(8)
    again = learn(small, data, steps=40, batch_size=32, learning_rate=0.01)
    assert np.array_equal(first.probabilities, again.probabilities)
    torch.manual_seed(7)
    assert torch.equal(torch.rand(1), drawn)
    assert not first.model.training


def test_a_metric_of_ones_own_is_used():
    seen = train_and_score(small, digits(16), steps=1, metric=lambda p, y: float(p.shape[0] + len(y)))
    assert seen == pytest.approx(2 * 597)
