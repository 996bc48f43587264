"""The patches that a model with reduced tokens kept, on the input grid."""

import pytest
import torch

from foveal.blocks.changes import change_model
from foveal.blocks.reduced_tokens import kept_patches
from foveal.encoders import create_encoder
from foveal.explanation.kept_patches import kept_share
from foveal.explanation.methods import explain
from foveal.models import Classifier, ClassifierConfig


@pytest.fixture(scope="module")
def model() -> Classifier:
    torch.manual_seed(0)
    settings = {"image_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2}
    config = ClassifierConfig(
        encoder="timm/vit_tiny_patch16_224", encoder_settings=settings, classes=("a", "b"), size=32
    )
    made = Classifier(config)
    change_model(made.encoder, "reduced-tokens", at=[0, 1], keep_rate=0.5)
    return made.eval()


def test_patches_that_go_on_are_1_and_those_fused_at_once_0(model) -> None:
    images = torch.rand(3, 3, 32, 32)
    share = kept_share(model, images)
    _, masks = kept_patches(model, images)
    assert share.shape == (3, 4, 4)
    assert torch.equal(share.flatten(1) == 1, masks[1])
    assert torch.equal(share.flatten(1) == 0, ~masks[0])
    shown = explain(model, images, method="kept-patches")
    assert torch.equal(shown, share.repeat_interleave(8, 1).repeat_interleave(8, 2))


def test_a_model_that_keeps_all_its_tokens_is_refused() -> None:
    encoder = create_encoder("conv-pyramid", widths=(4, 8), in_channels=3).eval()
    with pytest.raises(ValueError, match="keeps all its tokens"):
        kept_share(encoder, torch.rand(1, 3, 32, 32))
