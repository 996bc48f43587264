"""Attention met in any transformer, and relevance from it."""

import numpy as np
import pytest
import timm
import torch
from torch import nn
from torchvision.models.vision_transformer import VisionTransformer
from transformers import ViTConfig, ViTForImageClassification

from foveal.blocks.attention_taps import attention_of, attention_tapped
from foveal.explanation import explain
from foveal.explanation.attention_methods import flow_to_tokens, relevance_rollout, rollout, with_residual

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


def test_rollout_is_the_product_of_the_layers_with_half_of_each_token_its_own():
    model = timm_vit(True)
    layers = [(layer.weights.mean(1) + torch.eye(17)) / 2 for layer in attention_of(model, IMAGES)]
    joint = layers[1] @ layers[0]
    torch.testing.assert_close(rollout([with_residual(layer * 2 - torch.eye(17)) for layer in layers]), joint)
    found = explain(model, IMAGES, 0, method="attention-rollout")
    expected = torch.nn.functional.interpolate(
        joint[:, 0, 1:].view(2, 1, 4, 4), size=(32, 32), mode="bilinear"
    )[:, 0]
    torch.testing.assert_close(found, expected)


def test_without_a_class_token_the_mean_row_is_taken():
    model = timm_vit(True, class_token=False, global_pool="avg")
    found = explain(model, IMAGES, 0, method="attention-rollout")
    layers = [with_residual(layer.weights.mean(1)) for layer in attention_of(model, IMAGES)]
    assert found.shape == (2, 32, 32)
    wanted = (layers[1] @ layers[0]).mean(1).view(2, 4, 4)
    torch.testing.assert_close(found[:, 4::8, 4::8].argmax(-1), wanted.argmax(-1))


def test_register_tokens_are_left_out():
    model = timm_vit(True, reg_tokens=3)
    assert explain(model, IMAGES, 1, method="attention-relevance").shape == (2, 32, 32)


def test_relevance_is_attention_times_gradient_rolled_out():
    torch.manual_seed(0)
    maps = [torch.rand(1, 2, 3, 3, requires_grad=True) for _ in range(2)]
    gradients = [torch.randn(1, 2, 3, 3) for _ in range(2)]
    first, second = ((g * a).relu().mean(1) for g, a in zip(gradients, maps, strict=True))
    eye = torch.eye(3)
    torch.testing.assert_close(relevance_rollout(maps, gradients), (eye + second) @ (eye + first) - eye)


def test_flow_is_the_narrowest_place_of_a_chain_and_the_sum_of_ways():
    half = np.array([[0.5, 0.5, 0.0], [0.0, 0.75, 0.25], [0.0, 0.0, 1.0]])
    np.testing.assert_allclose(flow_to_tokens([half]), [0.5, 0.5, 0.0], atol=1e-5)
    # token 0 reaches 2 by 0 > 1 > 2 only: 0.5 at first, 0.25 then
    np.testing.assert_allclose(flow_to_tokens([half, half]), [0.5, 1.0, 0.25], atol=1e-5)


@pytest.mark.parametrize("method", ["attention-rollout", "attention-flow", "attention-relevance"])
def test_methods_give_maps_of_the_images_size(method):
    found = explain(timm_vit(True), IMAGES, 2, method=method)
    assert found.shape == (2, 32, 32)
    assert found.min() >= 0
    assert found.max() > 0


def test_relevance_depends_on_the_class_and_rollout_does_not():
    model = timm_vit(True)
    for method, same in (("attention-rollout", True), ("attention-relevance", False)):
        one, other = (explain(model, IMAGES, target, method=method) for target in (0, 1))
        assert torch.equal(one, other) == same


def test_a_model_without_attention_is_refused():
    model = timm.create_model("resnet10t", num_classes=2).eval()
    for method in ("attention-rollout", "attention-relevance"):
        with pytest.raises(ValueError, match="has no attention"):
            explain(model, IMAGES, 0, method=method)
