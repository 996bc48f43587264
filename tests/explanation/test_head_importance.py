"""Heads taken out: what changes is measured, and the model is as before."""

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from foveal.blocks.attention_taps import attention_tapped
from foveal.explanation.head_importance import (
    head_importance,
    head_sensitivity,
    layer_pruning,
    pruning_curve,
)
from foveal.explanation.head_passes import heads_gated, mean_head_outputs, resumable

IMAGES = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


@pytest.fixture
def vit():
    torch.manual_seed(0)
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3, "num_classes": 3}
    model = timm.create_model("vit_tiny_patch16_224", **options).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.15)
    return model


def without(model, layer, head):
    """Logits with the head's columns of the projection set to 0."""
    weight = model.blocks[layer].attn.proj.weight
    kept = weight.detach().clone()
    weight.data[:, 8 * head : 8 * head + 8] = 0
    with torch.no_grad():
        found = model(IMAGES)
    weight.data.copy_(kept)
    return found


def test_measures_are_those_of_the_projection_without_the_heads_columns(vit):
    found = head_importance(vit, IMAGES, LABELS, batch_size=4)
    with torch.no_grad():
        whole = vit(IMAGES)
    for layer in range(3):
        for head in range(3):
            logits = without(vit, layer, head)
            loss = F.cross_entropy(logits, LABELS) - F.cross_entropy(whole, LABELS)
            assert found.measures["loss_increase"][layer, head].item() == pytest.approx(loss.item(), abs=1e-5)
            p, q = whole.softmax(1), logits.softmax(1)
            drop = (p - q).gather(1, p.argmax(1, keepdim=True)).mean()
            assert found.measures["probability_drop"][layer, head].item() == pytest.approx(
                drop.item(), abs=1e-5
            )
            m = (p + q) / 2
            divergence = ((p * (p / m).log() + q * (q / m).log()) / 2).sum(1).mean()
            assert found.measures["divergence"][layer, head].item() == pytest.approx(
                divergence.item(), abs=1e-5
            )


def test_kept_blocks_change_nothing_but_the_time(vit):
    with resumable(vit, IMAGES) as passes:
        assert len(passes.blocks) == 3
        gates = torch.tensor([1.0, 0, 1])
        for layer in range(3):
            found = passes.run(layer, gates)
            torch.testing.assert_close(found.logits.float(), without(vit, layer, 1), atol=1e-5, rtol=1e-4)
            assert found.embedding.shape == (6, 24)
    with torch.no_grad():
        torch.testing.assert_close(vit(IMAGES), passes.run().logits.float())


def test_blocks_before_the_head_are_not_run_again(vit):
    counts = [0, 0, 0]
    handles = [
        block.mlp.register_forward_hook(lambda *_, k=k: counts.__setitem__(k, counts[k] + 1))
        for k, block in enumerate(vit.blocks)
    ]
    head_importance(vit, IMAGES)
    for handle in handles:
        handle.remove()
    # once for one image, once to find the blocks, once to keep inputs and once whole; then 3 heads a layer
    assert counts == [4 + 3, 4 + 6, 4 + 9]


def test_a_planted_head_is_first_by_every_measure(vit):
    for layer, block in enumerate(vit.blocks):
        values = block.attn.qkv.weight.view(3, 3, 8, 24)[2]
        for head in range(3):
            if (layer, head) != (1, 2):
                values.data[head] = 0
        block.attn.qkv.bias.data.zero_()
    with torch.no_grad():
        labels = vit(IMAGES).argmax(1)
    found = head_importance(vit, IMAGES, labels, kept_alone=True, layer_shift=True)
    names = set(found.measures) - {"accuracy_drop", "kept_alone"}
    assert len(names) == 6
    assert found.measures["kept_alone"][1].argmax() == 2  # told within a layer only
    for name in names:
        assert found.measures[name].argmax().item() == 5, name
    assert found.measures["accuracy_drop"].flatten()[5] == found.measures["accuracy_drop"].max()
    assert found.combined_rank().argmax().item() == 5
    assert head_sensitivity(vit, IMAGES, labels).measures["sensitivity"].argmax().item() == 5


def test_sensitivity_is_the_finite_difference_of_the_gate(vit):
    vit = vit.double()
    images = IMAGES.double()
    found = head_sensitivity(vit, images, LABELS).measures["sensitivity"]
    assert found.shape == (3, 3)

    def losses(shift):
        def gated(layer, weights):
            gates = torch.ones(3, dtype=weights.dtype)
            gates[1] += shift if layer == 2 else 0
            return weights * gates.view(1, 3, 1, 1)

        with torch.no_grad(), attention_tapped(vit, edit=gated):
            return F.cross_entropy(vit(images), LABELS, reduction="none")

    slope = ((losses(1e-4) - losses(-1e-4)) / 2e-4).abs().mean()
    assert found[2, 1].item() == pytest.approx(slope.item(), rel=1e-3)


def test_without_labels_only_measures_that_need_none_are_given(vit):
    assert set(head_importance(vit, IMAGES).measures) == {"probability_drop", "divergence", "embedding_shift"}


def test_measures_that_agree_correlate(vit):
    names, table = head_importance(vit, IMAGES).agreement()
    assert table.shape == (len(names), len(names))
    torch.testing.assert_close(table.diagonal(), torch.ones(len(names), dtype=torch.float64))


def test_pruning_goes_from_none_to_all(vit):
    importance = head_importance(vit, IMAGES, LABELS).measures["loss_increase"]
    curve = pruning_curve(vit, IMAGES, LABELS, importance)
    assert [count for count, _ in curve] == list(range(10))
    with torch.no_grad():
        assert curve[0][1] == pytest.approx((vit(IMAGES).argmax(1) == LABELS).float().mean().item())
    least = pruning_curve(vit, IMAGES, LABELS, importance, counts=[1])
    most = pruning_curve(vit, IMAGES, LABELS, importance, order="most first", counts=[1])
    assert least[0][1] >= most[0][1]


def test_what_does_not_fit_is_refused(vit):
    with pytest.raises(ValueError, match="one of each"):
        head_importance(vit, IMAGES, LABELS[:2])
    with pytest.raises(ValueError, match="no list of blocks"):
        head_importance(vit, IMAGES, blocks="head")
    with pytest.raises(ValueError, match="has no attention"):
        head_importance(timm.create_model("resnet10t", num_classes=2).eval(), IMAGES)
    with pytest.raises(ValueError, match="training mode"):
        head_sensitivity(vit.train(), IMAGES)


def test_open_gates_leave_the_logits_and_closed_ones_are_columns_of_zeros(vit):
    with torch.no_grad():
        whole = vit(IMAGES)
        with heads_gated(vit, torch.ones(3, 3)):
            torch.testing.assert_close(vit(IMAGES), whole, atol=1e-6, rtol=0)
        gates = torch.ones(3, 3)
        gates[1, 2] = 0
        with heads_gated(vit, gates):
            torch.testing.assert_close(vit(IMAGES), without(vit, 1, 2), atol=1e-6, rtol=1e-6)


def test_a_head_at_its_mean_is_the_mean_of_what_it_gives(vit):
    means = mean_head_outputs(vit, IMAGES, batch_size=4)
    assert [tuple(mean.shape) for mean in means] == [(3, 17, 8)] * 3
    attention, met = vit.blocks[1].attn, {}
    handle = attention.proj.register_forward_pre_hook(lambda _, given: met.update(heads=given[0].clone()))
    with torch.no_grad():
        vit(IMAGES)
        handle.remove()
        wanted = met["heads"].mean(0).view(17, 3, 8).transpose(0, 1)
        torch.testing.assert_close(means[1].float(), wanted)

        def at_mean(_, given):
            changed = given[0].clone()
            changed[..., 16:] = wanted[2]
            return (changed,)

        handle = attention.proj.register_forward_pre_hook(at_mean)
        logits = vit(IMAGES)
        handle.remove()
        found = head_importance(vit, IMAGES, LABELS, ablation="mean")
        loss = F.cross_entropy(logits, LABELS) - F.cross_entropy(vit(IMAGES), LABELS)
    assert found.measures["loss_increase"][1, 2].item() == pytest.approx(loss.item(), abs=1e-5)


def test_heads_of_a_softmax_written_out_can_be_set_to_their_means(vit):
    fused = mean_head_outputs(vit, IMAGES)
    for block in vit.blocks:
        block.attn.fused_attn = False
    for a, b in zip(fused, mean_head_outputs(vit, IMAGES), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_classes_share_the_images_out(vit):
    found = head_importance(vit, IMAGES, LABELS)
    parts = [found.of_class(k).measures["loss_increase"] for k in range(3)]
    torch.testing.assert_close(torch.stack(parts).mean(0), found.measures["loss_increase"])
    with pytest.raises(ValueError, match="there are 0, 1, 2"):
        found.of_class(5)


def test_a_layer_that_keeps_all_heads_is_as_it_was(vit):
    importance = torch.rand(3, 3)
    table = layer_pruning(vit, IMAGES, None, importance)
    assert table.shape == (4, 4)
    assert (table[:, -1] == 1).all()
    few = layer_pruning(vit, IMAGES, None, importance, kept=[0])
    torch.testing.assert_close(few[:, 0], table[:, 0])


def test_without_labels_pruning_counts_answers_that_stay(vit):
    curve = pruning_curve(vit, IMAGES, None, torch.rand(3, 3), counts=[0, 9])
    assert curve[0] == (0, 1.0)


def test_layers_of_different_numbers_of_heads_are_filled_up_with_nan():
    swin = timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=56, embed_dim=24, depths=(1, 1), num_heads=(1, 2),
        num_classes=3,
    ).eval()  # fmt: skip
    images = torch.rand(2, 3, 56, 56)
    found = head_importance(swin, images, torch.tensor([0, 1]))
    assert found.measures["divergence"].isnan().tolist() == [[False, True], [False, False]]
    assert found.combined_rank().isnan().sum() == 1
    assert not found.agreement()[1].diagonal()[1:3].isnan().any()
    assert head_sensitivity(swin, images).measures["sensitivity"].isnan().sum() == 1
    assert len(pruning_curve(swin, images, None, found.combined_rank())) == 4


def test_means_that_cannot_be_met_are_refused():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.self_attention = nn.ModuleDict({"softmax": nn.Softmax(dim=-1)})
            self.head = nn.Linear(4, 2)

        def forward(self, images):
            tokens = images.flatten(2)[:, None]  # (B, 1, 3, 4)
            weights = self.self_attention["softmax"](tokens @ tokens.mT)
            return self.head(torch.einsum("bhnm,bhmd->bhnd", weights, tokens).mean((1, 2)))

    model, images = Mixed().eval(), torch.rand(2, 3, 2, 2)
    assert head_importance(model, images).measures["divergence"].shape == (1, 1)
    with pytest.raises(ValueError, match="0 of 1 attention layers"):
        head_importance(model, images, ablation="mean")
