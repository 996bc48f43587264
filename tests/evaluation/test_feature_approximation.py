import math

import pytest
import torch

from foveal.evaluation.feature_approximation import Approximation, approximate_features


def _features(images: int, seed: int):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(images, 16, 5, generator=generator)
    noise = torch.randn(images, 16, 3, generator=generator)
    return inputs, inputs @ torch.arange(15.0).reshape(5, 3) / 15 + 2 + 0.5 * noise, noise


def test_a_linear_relation_is_told_up_to_its_noise():
    train, test = _features(60, 0), _features(60, 1)
    told = approximate_features(train[0], train[1], test[0], test[1])
    assert told.loss == pytest.approx(0.25, rel=0.1)
    assert told.information == pytest.approx(-math.log(1 - told.explained))
    assert told.relative_to(told) == 1


def test_a_constant_tells_nothing():
    train, test = _features(60, 0), _features(60, 1)
    told = approximate_features(train[0] * 0, train[1], test[0] * 0, test[1])
    assert told.explained == pytest.approx(0, abs=1e-9)
    assert told.information == pytest.approx(0, abs=1e-9)
    assert Approximation(0.0, 1.0).information == math.inf


def test_wrong_features_are_named():
    inputs, targets, _ = _features(2, 0)
    with pytest.raises(ValueError, match="on the same grid"):
        approximate_features(inputs, targets[:, :8], inputs, targets)
    with pytest.raises(ValueError, match="do not vary"):
        approximate_features(inputs, targets * 0, inputs, targets * 0)
