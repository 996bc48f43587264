"""Attention met in any transformer, read and changed."""

import pytest
import timm
import torch
from torch import nn
from torchvision.models.vision_transformer import VisionTransformer
from transformers import ViTConfig, ViTForImageClassification

from foveal.blocks.attention_taps import attention_of, attention_tapped

IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def timm_vit(fused: bool, **options):
    torch.manual_seed(0)
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4} | options
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=5, **options).eval()
    nn.init.normal_(vit.head.weight)
    for block in vit.blocks:
        block.attn.fused_attn = fused
    return vit


def torchvision_vit():
    torch.manual_seed(0)
    options = {"num_layers": 2, "num_heads": 4, "hidden_dim": 32, "mlp_dim": 64, "num_classes": 5}
    vit = VisionTransformer(image_size=32, patch_size=8, **options).eval()
    nn.init.normal_(vit.heads.head.weight)
    return vit


class Logits(nn.Module):
    def __init__(self, implementation):
        super().__init__()
        torch.manual_seed(0)
        config = ViTConfig(
            image_size=32, patch_size=8, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
            intermediate_size=64, num_labels=5, attn_implementation=implementation,
        )  # fmt: skip
        self.model = ViTForImageClassification(config)

    def forward(self, images):
        return self.model(images).logits


MODELS = {
    "timm, fused": lambda: timm_vit(True),
    "timm, in steps": lambda: timm_vit(False),
    "torchvision": torchvision_vit,
    "transformers, eager": lambda: Logits("eager").eval(),
    "transformers, fused": lambda: Logits("sdpa").eval(),
}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS.keys())
def test_attention_is_met_and_the_output_stays(make):
    model = make()
    with torch.no_grad():
        before = model(IMAGES)
        with attention_tapped(model) as kept:
            after = model(IMAGES)
    torch.testing.assert_close(after, before, atol=1e-6, rtol=1e-5)
    assert [tuple(layer.weights.shape) for layer in kept] == [(2, 4, 17, 17)] * 2
    torch.testing.assert_close(kept[0].weights.sum(-1), torch.ones(2, 4, 17))


def test_fused_attention_and_that_in_steps_are_the_same():
    for one, other in zip(
        attention_of(timm_vit(True), IMAGES), attention_of(timm_vit(False), IMAGES), strict=True
    ):
        assert one.name == other.name
        torch.testing.assert_close(one.weights, other.weights)


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS.keys())
def test_edited_attention_is_gone_on_with(make):
    model = make()

    def without_second_head(layer, weights):
        return weights * torch.tensor([1.0, 0, 1, 1]).view(1, 4, 1, 1) if layer == 1 else weights

    with torch.no_grad():
        with attention_tapped(model, edit=without_second_head) as kept:
            found = model(IMAGES)
        assert (kept[1].weights[:, 1] == 0).all()
        assert not torch.allclose(found, model(IMAGES), atol=1e-5)


def test_a_gate_of_nought_is_the_heads_columns_of_the_projection_set_to_nought():
    model, other = timm_vit(True), timm_vit(True)
    other.blocks[0].attn.proj.weight.data[:, 8:16] = 0
    with (
        torch.no_grad(),
        attention_tapped(
            model,
            edit=lambda layer, w: w * torch.tensor([1.0, 0, 1, 1]).view(1, 4, 1, 1) if layer == 0 else w,
        ),
    ):
        found = model(IMAGES)
    torch.testing.assert_close(found, other(IMAGES), atol=1e-6, rtol=1e-5)
