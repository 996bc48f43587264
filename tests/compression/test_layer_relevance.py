"""Relevance that meets layers: nothing is lost on the way, and contributions are shares."""

import pytest
import timm
import torch
from torch import nn

from foveal.compression.layer_relevance import layer_relevance, rank_agreement
from foveal.explanation.lrp_mode import sum_by_sizes


def transformer(name="vit_tiny_patch16_224", **options):
    torch.manual_seed(0)
    chosen = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2} | options
    model = timm.create_model(name, num_classes=5, **chosen).eval()
    for parameter in model.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    return model


def swin():
    return transformer(
        "swin_tiny_patch4_window7_224", img_size=64, patch_size=4, window_size=4, embed_dim=16, depth=None,
        depths=(2, 2), num_heads=(2, 4),
    )  # fmt: skip


CASES = {
    "vit": (transformer, 32, ["blocks.0", "blocks.1", "blocks.2", "norm"]),
    "layer scale, mean pooling": (
        lambda: transformer(init_values=0.5, global_pool="avg", class_token=False, fc_norm=False),
        32,
        ["blocks.0", "blocks.2"],
    ),
    "distilled": (lambda: transformer("deit_tiny_distilled_patch16_224"), 32, ["blocks.0", "blocks.2"]),
    "swin": (swin, 64, ["layers.0.blocks.0", "layers.0.blocks.1", "layers.1.downsample", "layers.1"]),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_boundary_of_blocks_holds_all_relevance(case, dtype) -> None:
    make, size, boundaries = CASES[case]
    images = torch.rand(3, 3, size, size)
    found = layer_relevance(make(), images, layers=boundaries, products=False, dtype=dtype).signed
    assert list(found) == boundaries
    for sums in found.values():
        assert sums.numpy() == pytest.approx(1.0, abs=1e-3)


def test_branch_and_skip_add_up_to_the_total_by_their_sizes() -> None:
    draw = torch.Generator().manual_seed(0)
    a, b, g = (torch.randn(4, 5, 6, generator=draw, dtype=torch.float64) for _ in range(3))
    a.requires_grad_()
    b.requires_grad_()
    of_a, of_b = torch.autograd.grad(sum_by_sizes(a, b), (a, b), g)
    total = ((a + b) * g).detach().sum((1, 2))
    branch, skip = ((x * y).detach().sum((1, 2)) for x, y in ((a, of_a), (b, of_b)))
    assert (branch + skip).tolist() == pytest.approx(total.tolist(), abs=1e-12)
    sizes = [(x * g).detach().sum((1, 2)).abs() for x in (a, b)]
    assert (branch / total).tolist() == pytest.approx((sizes[0] / (sizes[0] + sizes[1])).tolist())


def test_layers_of_a_branch_hold_its_share() -> None:
    model, images = transformer(), torch.rand(2, 3, 32, 32)
    found = layer_relevance(model, images, dtype=torch.float64).signed
    for block in range(3):
        share = found[f"blocks.{block}.attn.proj"]
        assert found[f"blocks.{block}.attn mixing"].tolist() == pytest.approx(share.tolist(), abs=1e-3)
        assert found[f"blocks.{block}.attn.qkv"].tolist() == pytest.approx(share.tolist(), abs=1e-3)
        assert found[f"blocks.{block}.attn scores"].tolist() == pytest.approx((share / 2).tolist(), abs=1e-3)
        branch = found[f"blocks.{block}.mlp.fc2"]
        assert found[f"blocks.{block}.mlp.fc1"].tolist() == pytest.approx(branch.tolist(), abs=1e-3)


def test_two_heads_share_by_their_logits() -> None:
    model, images = transformer("deit_tiny_distilled_patch16_224"), torch.rand(4, 3, 32, 32)
    target = torch.tensor([0, 1, 2, 3])
    found = layer_relevance(model, images, target, layers=["head", "head_dist"], products=False).signed
    kept = []
    for head in (model.head, model.head_dist):
        head.register_forward_hook(lambda _m, _i, y: kept.append(y))
    with torch.no_grad():
        model(images)
    first, second = (y[torch.arange(4), target] for y in kept)
    wanted = first.abs() / (first.abs() + second.abs())
    assert found["head"].tolist() == pytest.approx(wanted.tolist(), abs=1e-5)
    assert (found["head"] + found["head_dist"]).tolist() == pytest.approx([1.0] * 4, abs=1e-6)


@pytest.mark.parametrize("measure", ["size", "positive", "share"])
@pytest.mark.parametrize("rules", ["chefer", "attn-lrp"])
def test_contributions_are_shares_and_do_not_know_the_scale_of_logits(measure, rules) -> None:
    model, images = transformer(), torch.rand(3, 3, 32, 32)
    if rules == "attn-lrp":  # whose biases keep relevance
        nn.init.zeros_(model.head.bias)
    before = layer_relevance(model, images, rules=rules, dtype=torch.float64).contributions(measure)
    assert sum(before.values()) == pytest.approx(1)
    assert min(before.values()) >= 0
    with torch.no_grad():
        model.head.weight *= 7
        model.head.bias *= 7
    after = layer_relevance(model, images, rules=rules, dtype=torch.float64).contributions(measure)
    assert after == pytest.approx(before, abs=1e-5)


def test_layers_that_read_constants_have_none() -> None:
    model = transformer(
        "swinv2_tiny_window8_256", img_size=64, patch_size=4, window_size=4, embed_dim=16, depth=None,
        depths=(2,), num_heads=(2,),
    )  # fmt: skip
    found = layer_relevance(model, torch.rand(2, 3, 64, 64)).size
    assert found["layers.0.blocks.0.attn.cpb_mlp.0"].tolist() == [0, 0]
    assert min(found["layers.0.blocks.0.mlp.fc1"].tolist()) > 0


def test_the_model_and_its_precision_stay() -> None:
    model, images = transformer(), torch.rand(2, 3, 32, 32)
    wanted = model(images)
    layer_relevance(model, images, dtype=torch.float64)
    assert torch.equal(model(images), wanted)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_an_operation_without_a_rule_is_named_with_its_module() -> None:
    class Strange(nn.Module):
        def forward(self, x):
            return torch.fft.rfft(x, dim=-1).real

    model = transformer()
    model.blocks[1].mlp.act = nn.Sequential(Strange(), nn.Linear(65, 128))
    with pytest.raises(NotImplementedError, match=r"fft.*in blocks\.1\.mlp\.act\.0"):
        layer_relevance(model, torch.rand(1, 3, 32, 32))
    with pytest.raises(ValueError, match="no images"):
        layer_relevance(model, torch.rand(0, 3, 32, 32))


def test_agreement_of_ranks_is_one_for_the_same_and_minus_one_for_the_reverse() -> None:
    first = {"a": 0.5, "b": 0.3, "c": 0.2}
    assert rank_agreement(first, dict(first)) == pytest.approx(1)
    assert rank_agreement(first, {"a": 0.1, "b": 0.2, "c": 0.7}) == pytest.approx(-1)
