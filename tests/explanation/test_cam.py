import pytest
import torch
from captum.attr import LayerGradCam
from einops import rearrange

from foveal.explanation import explain
from foveal.explanation.cam import token_relevance
from foveal.models import Classifier, ClassifierConfig


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = ClassifierConfig(encoder="timm/resnet10t", classes=("no", "yes"), size=96)
    return Classifier(config).eval()


def test_mean_of_the_map_plus_bias_is_the_logit(model):
    images, target = torch.rand(3, 3, 96, 96), torch.tensor([0, 1, 1])
    cam = token_relevance(model, images, target)
    logits = model(images).gather(1, target[:, None])[:, 0]
    torch.testing.assert_close(cam.mean((1, 2)) + model.head.bias[target], logits, atol=1e-5, rtol=0)


def test_positive_part_is_captum_grad_cam(model):
    images, target = torch.rand(1, 3, 96, 96), torch.tensor([1])
    layer = LayerGradCam(model, model.encoder.backbone.layer4)
    oracle = layer.attribute(images, target=1, relu_attributions=True)[0, 0].flatten()
    ours = token_relevance(model, images, target).relu().flatten()
    assert oracle.max() > 0
    assert torch.cosine_similarity(oracle, ours, dim=0) > 0.999


def test_encoders_that_pool_otherwise_get_grad_cam(model):
    class MaxPooled(type(model.encoder)):
        def forward(self, images):
            features = super().forward(images)
            return type(features)(features.patches, features.grid, features.patches.amax(1), features.pyramid)

    model.encoder.__class__ = MaxPooled
    images = torch.rand(1, 3, 96, 96)
    relevance = token_relevance(model, images, torch.tensor([1]))
    with torch.enable_grad():
        features = model.encoder((images - model.mean) / model.std)
        gradient = torch.autograd.grad(model.head(features.pooled)[0, 1], features.patches)[0]
    expected = (features.patches * gradient.mean(1, keepdim=True)).sum(-1).relu()
    torch.testing.assert_close(relevance, rearrange(expected, "b (h w) -> b h w", h=features.grid[0]))


def test_a_class_token_is_explained_by_gradient_times_input():
    torch.manual_seed(0)
    settings = {"image_size": 32, "patch_size": 8, "dim": 16, "depth": 2}
    config = ClassifierConfig(encoder="vim", encoder_settings=settings, classes=("no", "yes"), size=32)
    model = Classifier(config).eval()
    images, target = torch.rand(2, 3, 32, 32), torch.tensor([0, 1])
    relevance = token_relevance(model, images, target)
    pixels = ((images - model.mean) / model.std).requires_grad_()
    logits = model.head(model.encoder(pixels).pooled).gather(1, target[:, None]).sum()
    each = (torch.autograd.grad(logits, pixels)[0] * pixels).sum(1)
    expected = rearrange(each, "b (h p) (w q) -> b h w (p q)", p=8, q=8).mean(-1).relu()
    torch.testing.assert_close(relevance, expected)
    assert relevance.max() > 0


def test_map_has_the_size_of_the_input_and_bad_targets_are_refused(model):
    images = torch.rand(2, 3, 96, 64)
    assert explain(model, images, torch.tensor([0, 1])).shape == (2, 96, 64)
    with pytest.raises(ValueError, match="indices from 0 to 1"):
        explain(model, images, torch.tensor([0, 2]))
