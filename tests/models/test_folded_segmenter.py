"""A segmenter whose batch normalisations are folded says what it said before."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from foveal.models import Segmenter, shipped_model
from foveal.models.segmenter import SegmenterConfig
from foveal.models.shipped import list_shipped


@pytest.mark.parametrize("name", list_shipped())
def test_no_normalisation_of_a_shipped_network_is_left(name: str) -> None:
    model = Segmenter.from_pretrained(shipped_model(name))
    image = torch.rand(1, 3, 96, 64, generator=torch.Generator().manual_seed(0))
    folded = copy.deepcopy(model).merge_batch_norms()
    assert any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    with torch.inference_mode():
        before, after = model.signed(model(image)), folded.signed(folded(image))
    torch.testing.assert_close(after, before, atol=1e-4, rtol=0)


def test_folding_twice_changes_nothing_more() -> None:
    config = SegmenterConfig(encoder="medvit-v2", encoder_settings={"size": "tiny"})
    model = Segmenter(config).eval().merge_batch_norms()
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        once = model(image)
        again = model.merge_batch_norms()(image)
    assert torch.equal(once, again)


def test_a_folded_segmenter_is_not_saved(tmp_path: Path) -> None:
    model = Segmenter(SegmenterConfig()).eval()
    model.save_pretrained(tmp_path / "before")
    with pytest.raises(ValueError, match="save it before merging"):
        model.merge_batch_norms().save_pretrained(tmp_path / "after")
    assert not (tmp_path / "after").exists()


def test_folding_a_segmenter_in_training_mode_is_refused() -> None:
    with pytest.raises(ValueError, match=r"call \.eval\(\)"):
        Segmenter(SegmenterConfig()).train().merge_batch_norms()
