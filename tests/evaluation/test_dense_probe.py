import pytest
import torch
from torch.nn import functional as F

from foveal.evaluation.dense_probe import DenseData, DepthBins, probe_classes, probe_depth
from foveal.training import TrainingSettings

SHORT = TrainingSettings(steps=150, batch_size=8, learning_rate=0.02, tensorboard=False, log_every=150)


def squares(count, seed):
    """Features that tell the class of their cell by direction, and cells of 4 px."""
    random = torch.Generator().manual_seed(seed)
    cells = torch.randint(0, 3, (count, 4, 4), generator=random)
    features = F.one_hot(cells, 3).float() * 2 + 0.1 * torch.randn(count, 4, 4, 3, generator=random)
    return DenseData(features, cells.repeat_interleave(4, 1).repeat_interleave(4, 2))


def test_a_linear_head_reads_classes_that_are_there_and_only_those():
    train, test = squares(24, 0), squares(12, 1)
    found = probe_classes(train, test, classes=3, training=SHORT)
    assert found.accuracy > 0.8
    assert found.mean_iou == pytest.approx(sum(found.iou) / 3)
    noise = DenseData(torch.randn_like(train.features), train.values)
    guessed = probe_classes(
        noise, DenseData(torch.randn_like(test.features), test.values), classes=3, training=SHORT
    )
    assert guessed.mean_iou < 0.4


def test_the_same_seed_gives_the_same_scores():
    train, test = squares(8, 0), squares(4, 1)
    first, second = (
        probe_classes(train, test, classes=3, training=SHORT.replace(steps=10)) for _ in range(2)
    )
    assert first == second


def test_pixels_of_255_count_neither_in_the_fit_nor_in_the_score():
    train, test = squares(8, 0), squares(4, 1)
    hidden = test.values.clone()
    hidden[:, :8] = 255
    found = probe_classes(
        train, DenseData(test.features, hidden), classes=3, training=SHORT.replace(steps=10)
    )
    assert 0 <= found.accuracy <= 1


def test_depth_is_a_mean_of_bins_and_is_learned():
    head = DepthBins(3, 1.0, 5.0, bins=9).eval()
    depth = head(torch.randn(2, 4, 4, 3), (8, 8))
    assert depth.shape == (2, 8, 8)
    assert float(depth.detach().min()) >= 1
    assert float(depth.detach().max()) <= 5
    train, test = (DenseData(d.features, d.values.float() + 1) for d in (squares(24, 0), squares(12, 1)))
    learned = probe_depth(train, test, bins=32, training=SHORT)
    assert learned < 0.8 * float(test.values.std())


def test_values_and_shapes_that_do_not_fit_are_refused():
    data = squares(4, 0)
    with pytest.raises(ValueError, match="integers 0 to 1"):
        probe_classes(data, data, classes=2)
    with pytest.raises(ValueError, match="allowed"):
        DenseData(data.features, data.values[:2])
    with pytest.raises(ValueError, match="above 0"):
        probe_depth(DenseData(data.features, torch.zeros(4, 16, 16)), data)
    with pytest.raises(ValueError, match="channels to learn from"):
        probe_classes(DenseData(data.features[..., :2], data.values), data, classes=3)
