"""Relevance from the attention of transformers: rollout, flow, and attention times gradient."""

import numpy as np
import pytest
import timm
import torch
from torch import nn

from foveal.blocks.attention_taps import attention_of
from foveal.explanation import explain
from foveal.explanation.attention_methods import flow_to_tokens, relevance_rollout, rollout, with_residual

IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def timm_vit(**options):
    torch.manual_seed(0)
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4} | options
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=5, **options).eval()
    nn.init.normal_(vit.head.weight)
    return vit


def test_rollout_is_the_product_of_the_layers_with_half_of_each_token_its_own():
    model = timm_vit()
    layers = [(layer.weights.mean(1) + torch.eye(17)) / 2 for layer in attention_of(model, IMAGES)]
    joint = layers[1] @ layers[0]
    torch.testing.assert_close(rollout([with_residual(layer * 2 - torch.eye(17)) for layer in layers]), joint)
    found = explain(model, IMAGES, 0, method="attention-rollout")
    expected = torch.nn.functional.interpolate(
        joint[:, 0, 1:].view(2, 1, 4, 4), size=(32, 32), mode="bilinear"
    )[:, 0]
    torch.testing.assert_close(found, expected)


def test_without_a_class_token_the_mean_row_is_taken():
    model = timm_vit(class_token=False, global_pool="avg")
    found = explain(model, IMAGES, 0, method="attention-rollout")
    layers = [with_residual(layer.weights.mean(1)) for layer in attention_of(model, IMAGES)]
    assert found.shape == (2, 32, 32)
    wanted = (layers[1] @ layers[0]).mean(1).view(2, 4, 4)
    torch.testing.assert_close(found[:, 4::8, 4::8].argmax(-1), wanted.argmax(-1))


def test_register_tokens_are_left_out():
    model = timm_vit(reg_tokens=3)
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
    found = explain(timm_vit(), IMAGES, 2, method=method)
    assert found.shape == (2, 32, 32)
    assert found.min() >= 0
    assert found.max() > 0


def test_relevance_depends_on_the_class_and_rollout_does_not():
    model = timm_vit()
    for method, same in (("attention-rollout", True), ("attention-relevance", False)):
        one, other = (explain(model, IMAGES, target, method=method) for target in (0, 1))
        assert torch.equal(one, other) == same


def test_a_model_without_attention_is_refused():
    model = timm.create_model("resnet10t", num_classes=2).eval()
    for method in ("attention-rollout", "attention-relevance"):
        with pytest.raises(ValueError, match="has no attention"):
            explain(model, IMAGES, 0, method=method)
