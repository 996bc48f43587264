import pytest
import torch
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score

from foveal.metrics.position_variance import position_explained_variance


def test_it_is_the_r2_of_a_regression_on_one_hot_places():
    torch.manual_seed(0)
    features = torch.randn(6, 3, 4, 5) + torch.randn(3, 4, 5)
    onehot = torch.eye(12).repeat(6, 1).numpy()
    y = features.reshape(-1, 5).numpy()
    said = LinearRegression().fit(onehot, y).predict(onehot)
    wanted = r2_score(y, said, multioutput="variance_weighted")
    assert position_explained_variance(features) == pytest.approx(wanted, abs=1e-6)


def test_a_pattern_without_images_is_all_and_images_without_a_pattern_chance():
    torch.manual_seed(0)
    pattern = torch.randn(8, 8, 4)
    assert position_explained_variance(pattern.expand(5, -1, -1, -1)) == pytest.approx(1)
    noise = torch.randn(50, 8, 8, 4)
    assert position_explained_variance(noise) == pytest.approx(1 / 50, abs=0.01)
    assert position_explained_variance(noise, corrected=True) == pytest.approx(0, abs=0.01)


def test_one_image_and_constant_features_are_refused():
    with pytest.raises(ValueError, match="two images"):
        position_explained_variance(torch.randn(1, 4, 3))
    with pytest.raises(ValueError, match="do not vary"):
        position_explained_variance(torch.ones(3, 4, 3))
    with pytest.raises(ValueError, match="finite"):
        position_explained_variance(torch.full((3, 4, 3), float("nan")))
