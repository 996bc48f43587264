"""Masks: weights that are gone stay gone, in training and on disk."""

import pytest
import torch
from torch import nn

from foveal.compression.masks import Masks, zeros_of


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1, nesterov=True),
    ],
)
def test_no_weight_comes_back_in_training(make) -> None:
    model = network()
    kept = torch.rand(8, 6, generator=torch.Generator().manual_seed(1)) > 0.5
    masks, before = Masks({"0.weight": kept}), model[0].weight.detach().clone()
    optimiser = make(model.parameters())
    with masks.held(model):
        for _ in range(5):
            optimiser.zero_grad()
            model(torch.randn(4, 6)).square().sum().backward()
            optimiser.step()
            assert (model[0].weight[~kept] == 0).all()
    assert (model[0].weight[kept] != before[kept]).all()
    assert zeros_of(model).kept["0.weight"].equal(kept)


def test_share_hash_and_storage() -> None:
    kept = torch.zeros(8, 6, dtype=torch.bool)
    kept[:4] = True
    masks = Masks({"0.weight": kept})
    assert masks.share == 0.5
    assert masks.sha256 == Masks({"0.weight": kept.clone()}).sha256
    assert masks.sha256 != Masks({"0.weight": ~kept}).sha256
    stored = masks.storage(network())
    assert stored.dense == 4 * 48
    assert stored.bitmask == 4 * 24 + 6
    assert stored.csr == 6 * 24 + 4 * 9


def test_masks_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="must be bool"):
        Masks({"0.weight": torch.ones(8, 6)})
    with pytest.raises(ValueError, match="no parameter 'x'"):
        Masks({"x": torch.ones(1, dtype=torch.bool)}).apply(network())
    with pytest.raises(ValueError, match="has shape"):
        Masks({"0.weight": torch.ones(6, 8, dtype=torch.bool)}).apply(network())
