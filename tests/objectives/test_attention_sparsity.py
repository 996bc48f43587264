"""The log-sum penalty: its bounds, its gradient, which layers feel it, and the models it reads."""

import math

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F
from transformers import ViTConfig, ViTForImageClassification

from foveal.blocks.attention_taps import attention_of
from foveal.objectives.attention_sparsity import AttentionSparsityObjective, attention_penalty, log_sum
from foveal.objectives.classification import ClassificationObjective
from foveal.objectives.distillation import DistillationObjective
from foveal.objectives.weight_sparsity import WeightSparsityObjective


def vit(**options: object) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=16, depth=3, num_heads=2, num_classes=3,
        **options,
    )  # fmt: skip


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    return {"images": torch.rand(4, 3, 32, 32, generator=draw), "labels": torch.tensor([0, 1, 2, 1])}


@pytest.mark.parametrize("keys", [2, 3, 17, 577])
def test_even_rows_have_the_least_penalty_and_one_hot_rows_the_most(keys) -> None:
    even = float(log_sum(torch.full((5, keys), 1 / keys)))
    single = float(log_sum(F.one_hot(torch.arange(5) % keys, keys).float()))
    assert even == pytest.approx(math.log1p(1 / keys**2), abs=1e-7)
    assert single == pytest.approx(math.log(2) / keys, abs=1e-7)
    between = float(log_sum(torch.randn(5, keys, generator=torch.Generator().manual_seed(0)).softmax(-1)))
    assert even < between < single


def test_gradient_is_that_of_finite_differences() -> None:
    draw = torch.Generator().manual_seed(0)
    scores = torch.randn(2, 2, 4, 4, generator=draw, requires_grad=True)
    (found,) = torch.autograd.grad(log_sum(scores.softmax(-1)), scores)
    wide, step = scores.detach().double(), 1e-4
    for at in range(0, scores.numel(), 5):
        shift = torch.zeros(scores.numel(), dtype=torch.float64)
        shift[at] = step
        up, down = (
            torch.log1p((wide + side * shift.view_as(wide)).softmax(-1).square()).mean() for side in (1, -1)
        )
        assert float(found.flatten()[at]) == pytest.approx(float(up - down) / (2 * step), rel=1e-4, abs=1e-7)


def test_half_precision_does_not_lose_small_attention() -> None:
    # numbers of float16 whose squares are 0 in float16
    assert float(log_sum(torch.full((4, 4), 1e-4, dtype=torch.float16))) == pytest.approx(1e-8, rel=0.01)


def test_the_last_layer_alone_or_all_of_them_feel_the_penalty() -> None:
    weights = [torch.rand(1, 2, 3, 3).requires_grad_() for _ in range(3)]
    gradients = torch.autograd.grad(attention_penalty(weights, layers="last"), weights, allow_unused=True)
    assert [gradient is not None for gradient in gradients] == [False, False, True]
    mean = torch.autograd.grad(attention_penalty(weights, layers="mean"), weights)
    total = torch.autograd.grad(attention_penalty(weights, layers="sum"), weights)
    for a, b in zip(mean, total, strict=True):
        assert a.abs().min() > 0
        assert torch.allclose(3 * a, b)


def test_of_one_layer_queries_of_others_feel_the_last_penalty_only_through_the_residual_path(batch) -> None:
    model = vit().eval()
    objective = AttentionSparsityObjective(ClassificationObjective(model))
    # what the last block is given is cut off: then nothing before it feels the penalty
    handle = model.blocks[2].register_forward_pre_hook(lambda _m, inputs: (inputs[0].detach(),))
    objective(batch)["attention"].backward()
    handle.remove()
    assert model.blocks[2].attn.qkv.weight.grad.abs().max() > 0
    assert model.blocks[0].attn.qkv.weight.grad is None
    objective(batch)["attention"].backward()
    assert model.blocks[0].attn.qkv.weight.grad.abs().max() > 0


@pytest.mark.parametrize("fused", [True, False])
def test_loss_is_the_objectives_and_the_weighted_penalty(batch, fused) -> None:
    model = vit().eval()
    for block in model.blocks:
        block.attn.fused_attn = fused
    plain = ClassificationObjective(model)
    losses = AttentionSparsityObjective(plain, weight=2.0, layers="mean", sign=-1)(batch)
    wanted = torch.stack([log_sum(layer.weights) for layer in attention_of(model, batch["images"])]).mean()
    assert float(losses["attention"]) == pytest.approx(float(wanted), rel=1e-5)
    assert float(losses["own"]) == pytest.approx(float(plain(batch)["loss"]), rel=1e-5)
    assert float(losses["loss"]) == pytest.approx(float(losses["own"] - 2 * wanted), rel=1e-5)


def test_logits_are_the_scaled_products_before_the_softmax(batch) -> None:
    model = vit().eval()
    losses = AttentionSparsityObjective(ClassificationObjective(model), target="logits")(batch)
    tokens: list[torch.Tensor] = []
    handle = model.blocks[2].attn.qkv.register_forward_hook(lambda _m, _i, output: tokens.append(output))
    model(batch["images"])
    handle.remove()
    query, key, _ = tokens[0].reshape(4, 17, 3, 2, 8).permute(2, 0, 3, 1, 4)
    assert float(losses["attention"]) == pytest.approx(
        float(log_sum(query @ key.transpose(-2, -1) / 8**0.5)), rel=1e-5
    )


def test_a_step_along_the_gradient_makes_attention_more_even(batch) -> None:
    """And less even with the other sign: the published form does not sparsify attention."""
    for sign, wanted in ((1, 1), (-1, -1)):
        model = vit().eval()
        nn.init.normal_(model.blocks[2].attn.qkv.weight, std=0.5)
        objective = AttentionSparsityObjective(ClassificationObjective(model), weight=1.0, sign=sign)
        before = entropy_of_last(model, batch["images"])
        for _ in range(20):
            loss = sign * objective(batch)["attention"]
            (gradient,) = torch.autograd.grad(loss, model.blocks[2].attn.qkv.weight)
            with torch.no_grad():
                model.blocks[2].attn.qkv.weight -= 50 * gradient
        assert wanted * (entropy_of_last(model, batch["images"]) - before) > 0


def entropy_of_last(model: nn.Module, images: torch.Tensor) -> float:
    return float(torch.special.entr(attention_of(model, images)[-1].weights).sum(-1).mean())


def test_models_of_transformers_and_torch_are_read(batch) -> None:
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32,
        patch_size=8, num_labels=3,
    )  # fmt: skip

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = ViTForImageClassification(config)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.inner(images).logits

    layer = nn.TransformerEncoderLayer(12, 2, 16, batch_first=True)
    torch_model = nn.Sequential(
        nn.Flatten(2), nn.AdaptiveAvgPool1d(12), layer, nn.Flatten(), nn.Linear(36, 3)
    )
    for model in (Logits(), torch_model):
        losses = AttentionSparsityObjective(ClassificationObjective(model), layers="mean")(batch)
        assert 0 < float(losses["attention"]) < math.log(2) / 3
        losses["loss"].backward()


def test_a_teachers_attention_does_not_count(batch) -> None:
    student, teacher = vit().eval(), vit(proj_drop_rate=0.0)
    alone = AttentionSparsityObjective(ClassificationObjective(student))(batch)["attention"]
    nn.init.normal_(teacher.blocks[2].attn.qkv.weight, std=1.0)
    both = AttentionSparsityObjective(ClassificationObjective(student))
    outside = DistillationObjective(both, teacher)(batch)
    assert torch.isfinite(outside["loss"])

    class Taught(ClassificationObjective):
        def forward(self, given):  # type: ignore[no-untyped-def]
            losses = super().forward(given)
            teacher(given["images"])
            return losses

    assert float(AttentionSparsityObjective(Taught(student))(batch)["attention"]) == pytest.approx(
        float(alone), rel=1e-6
    )


def test_weights_are_drawn_to_0_by_the_mean_of_their_absolute_values(batch) -> None:
    model = vit().eval()
    losses = WeightSparsityObjective(ClassificationObjective(model), weight=0.5)(batch)
    matrices = torch.cat([p.flatten() for p in model.parameters() if p.ndim > 1])
    assert float(losses["weights"]) == pytest.approx(float(matrices.abs().mean()), rel=1e-5)
    assert float(losses["loss"]) == pytest.approx(float(losses["own"] + 0.5 * losses["weights"]), rel=1e-6)
    assert WeightSparsityObjective(ClassificationObjective(model)).model is model


def test_wrong_words_and_models_without_attention_are_refused(batch) -> None:
    plain = ClassificationObjective(vit())
    with pytest.raises(ValueError, match="weight is -1"):
        AttentionSparsityObjective(plain, weight=-1)
    with pytest.raises(ValueError, match="did you mean 'last'"):
        AttentionSparsityObjective(plain, layers="lasts")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown target"):
        AttentionSparsityObjective(plain, target="rows")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="sign is 0"):
        AttentionSparsityObjective(plain, sign=0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="weight is inf"):
        WeightSparsityObjective(plain, weight=math.inf)
    convolutional = nn.Sequential(nn.Conv2d(3, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    objective = AttentionSparsityObjective(ClassificationObjective(convolutional))
    with pytest.raises(ValueError, match="Sequential has no attention that torch computes"):
        objective(batch)
    plain.model = None  # type: ignore[assignment]
    with pytest.raises(ValueError, match="has no `model`"):
        AttentionSparsityObjective(plain)
