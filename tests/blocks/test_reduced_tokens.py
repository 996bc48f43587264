"""Tokens that are kept, fused and dropped, against definitions written down beside them."""

import copy
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from foveal.blocks.attention_taps import attention_of
from foveal.blocks.changes import change_model
from foveal.blocks.reduced_block import ReducedBlock
from foveal.blocks.reduced_tokens import (
    keeping,
    kept_patches,
    reduced_blocks,
    settle_keep_rate,
    stages_tapped,
    warm_up_keep_rate,
)
from foveal.blocks.token_selection import (
    Stage,
    TokenSelection,
    TokenTrack,
    keep_count,
    keep_rate_at,
    original_places,
)
from foveal.encoders import Encoder, create_encoder

SMALL = {"patch_size": 8, "embed_dim": 32, "depth": 4, "num_heads": 2}
IMAGES = torch.randn(2, 3, 40, 40, generator=torch.Generator().manual_seed(0))  # 25 patches, odd

TIMM: dict[str, tuple[str, dict[str, Any], int]] = {
    "class token": ("vit_small_patch16_224", {}, 1),
    "distilled": ("deit_small_distilled_patch16_224", {}, 2),
    "registers": ("vit_small_patch16_224", {"reg_tokens": 4}, 5),
    "mean of patches": ("vit_small_patch16_224", {"global_pool": "avg"}, 1),
    "attention pooling": ("vit_small_patch16_224", {"class_token": False, "global_pool": "map"}, 0),
}
TRANSFORMERS: dict[str, dict[str, Any]] = {
    "vit": {"intermediate_size": 64},
    "deit": {"intermediate_size": 64},
    "dinov2": {"mlp_ratio": 2},
    "dinov2_with_registers": {"mlp_ratio": 2},
    "clip_vision_model": {"intermediate_size": 64},
    "siglip_vision_model": {"intermediate_size": 64},
}


def vit(kind: str = "class token", **options: Any) -> nn.Module:
    """A whole transformer of timm with logits of 5 classes."""
    name, extra, _ = TIMM[kind]
    torch.manual_seed(0)
    model = timm.create_model(name, img_size=40, num_classes=5, **SMALL, **extra, **options)
    nn.init.normal_(model.head.weight)
    return model.eval()


def reduced(kind: str = "class token", model: nn.Module | None = None, **settings: Any) -> nn.Module:
    """The same with reduced tokens."""
    model = model or vit(kind)
    change_model(model, "reduced-tokens", **{"at": [1, 2, 3], "keep_rate": 0.5, **settings})
    return model


def attention_of_class(model: nn.Module, images: Tensor, block: int) -> Tensor:
    """(B, n) attention of the class token in a block, mean of heads, from the definition."""
    x = model._pos_embed(model.patch_embed(images))
    for each in model.blocks[:block]:
        x = each(x)
    layer = model.blocks[block]
    tokens = layer.norm1(x)
    q, k, _ = layer.attn.qkv(tokens).reshape(*tokens.shape[:2], 3, 2, 16).unbind(2)
    logits = torch.einsum("bnhd,bmhd->bhnm", q, k) / 4
    return logits.softmax(-1)[:, :, 0, 1:].mean(1)


@pytest.mark.parametrize("kind", TIMM)
def test_keep_rate_1_is_the_whole_model_and_no_weight_is_new(kind) -> None:
    whole = vit(kind)
    model = reduced(kind, copy.deepcopy(whole), keep_rate=1.0)
    assert list(model.state_dict()) == list(whole.state_dict())
    model.load_state_dict(whole.state_dict())
    torch.testing.assert_close(model(IMAGES), whole(IMAGES), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_transformers_models_drop_tokens_and_keep_their_weights(kind) -> None:
    torch.manual_seed(0)
    config = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 40,
              "patch_size": 8, **TRANSFORMERS[kind]}  # fmt: skip
    whole = create_encoder(f"transformers/{kind}", config=config).eval()
    model = copy.deepcopy(whole)
    change_model(model, "reduced-tokens", at=[0, 1], keep_rate=0.5)
    assert list(model.state_dict()) == list(whole.state_dict())
    stages, masks = kept_patches(model, IMAGES)
    assert [stage.kept.shape[1] for stage in stages] == [13, 7]
    assert masks.shape == (2, 2, 25)
    assert model(IMAGES).patches.shape == whole(IMAGES).patches.shape
    with keeping(model, 1.0):
        torch.testing.assert_close(model(IMAGES).patches, whole(IMAGES).patches, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("tokens", "rate", "counts"),
    [(196, 0.7, [138, 98, 70]), (196, 0.5, [98, 50, 26]), (25, 0.9, [23, 22, 21]), (1, 0.5, [1, 1, 1])],
)
def test_counts_follow_the_ceiling_at_every_stage(tokens, rate, counts) -> None:
    found = []
    for _ in range(3):
        found.append(keep_count(rate, tokens))
        tokens = found[-1] + (found[-1] < tokens)
    assert found == counts


def test_the_ceiling_is_not_misled_by_floating_point() -> None:
    assert math.ceil(0.55 * 100) == 56
    assert keep_count(0.55, 100) == 55


@pytest.mark.parametrize("kind", TIMM)
@pytest.mark.parametrize("fuse", [True, False])
def test_tokens_behind_each_block_are_as_many_as_the_formula_says(kind, fuse) -> None:
    model, prefix = reduced(kind, fuse=fuse, keep_rate=0.7), TIMM[kind][2]
    lengths: list[int] = []
    for block in model.blocks[1:3]:
        block.register_forward_hook(lambda _b, _i, output: lengths.append(output.shape[1]))
    model(IMAGES)
    first = 18 + fuse
    assert lengths == [prefix + first, prefix + math.ceil(0.7 * first) + fuse]


@given(patches=st.integers(2, 40), rate=st.floats(0.05, 0.95), fuse=st.booleans(), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_every_patch_is_kept_or_in_one_fused_token(patches, rate, fuse, seed) -> None:
    draw = torch.Generator().manual_seed(seed)
    selection = TokenSelection(keep_rate=rate, fuse=fuse, prefix=1)
    track = TokenTrack(unpool="own", prefix=1)
    track.begin()
    tokens, stages = torch.rand(2, 1 + patches, 3, generator=draw), []
    members = [[{patch} for patch in range(patches)] for _ in range(2)]  # patches in each token
    for number in range(3):
        scores = torch.rand(2, tokens.shape[1] - 1, generator=draw)
        before = tokens
        tokens, kept, dropped = selection(tokens, scores)
        track.advance(before, kept, dropped, fused=fuse and dropped.shape[1] > 0)
        stages.append(Stage(number, kept, dropped, fuse and dropped.shape[1] > 0))
        for image in range(2):
            here = members[image]
            chosen, rest = kept[image].tolist(), dropped[image].tolist()
            assert set(rest) == set(range(len(here))) - set(chosen)
            lost = set().union(*(here[token] for token in rest))
            members[image] = [here[token] for token in chosen] + ([lost] if fuse and rest else [])
    owner = next(iter(track._passes.values())).owner
    for image in range(2):
        assert tokens.shape[1] - 1 == len(members[image])
        found = [
            set((owner[image] == token).nonzero()[:, 0].tolist()) for token in range(len(members[image]))
        ]
        assert found == members[image]
        if fuse:
            assert sorted(patch for token in found for patch in token) == list(range(patches))
        own = original_places(stages)[-1][image].tolist()
        for place, token in zip(own, members[image], strict=False):
            assert {place} == token if place >= 0 else len(token) > 1 or fuse


def test_the_fused_token_is_the_weighted_sum_and_0_without_attention() -> None:
    draw = torch.Generator().manual_seed(0)
    tokens, scores = torch.randn(2, 11, 8, generator=draw), torch.rand(2, 10, generator=draw)
    selection = TokenSelection(keep_rate=0.4, prefix=1)
    out, _, dropped = selection(tokens, scores)
    for image in range(2):
        rest = set(range(10)) - set(scores[image].topk(4).indices.tolist())
        wanted = sum(scores[image, j] * tokens[image, 1 + j] for j in rest)
        torch.testing.assert_close(out[image, -1], wanted, atol=1e-6, rtol=0)
        for place, j in enumerate(scores[image].topk(4).indices.tolist()):
            assert torch.equal(out[image, 1 + place], tokens[image, 1 + j])
    scores = scores.scatter(1, dropped, 0.0)
    assert bool((selection(tokens, scores)[0][:, -1] == 0).all())


def test_a_block_keeps_what_the_class_token_attends_to() -> None:
    whole = vit()
    scores = attention_of_class(whole, IMAGES, 1)
    stages, _ = kept_patches(reduced(model=whole), IMAGES)
    assert torch.equal(stages[0].kept, scores.topk(13).indices)


def test_the_fused_token_of_a_block_is_made_of_the_stream_behind_attention() -> None:
    whole = vit()
    scores = attention_of_class(whole, IMAGES, 1)
    x = whole.blocks[0](whole._pos_embed(whole.patch_embed(IMAGES)))
    layer = whole.blocks[1]
    x = x + layer.attn(layer.norm1(x))
    rest = torch.ones(2, 25).scatter(1, scores.topk(13).indices, 0.0)
    wanted = ((scores * rest)[..., None] * x[:, 1:]).sum(1)
    seen: list[Tensor] = []
    model = reduced(model=whole)
    model.blocks[1].selection.register_forward_hook(lambda _m, _i, output: seen.append(output[0]))
    model(IMAGES)
    torch.testing.assert_close(seen[0][:, -1], wanted, atol=1e-6, rtol=0)


def test_logits_do_not_depend_on_the_order_of_patches() -> None:
    model, order = reduced(), torch.randperm(25, generator=torch.Generator().manual_seed(1))
    wanted = model(IMAGES)
    cells = IMAGES.reshape(2, 3, 5, 8, 5, 8).permute(0, 1, 2, 4, 3, 5).reshape(2, 3, 25, 8, 8)
    moved = cells[:, :, order].reshape(2, 3, 5, 5, 8, 8).permute(0, 1, 2, 4, 3, 5).reshape(2, 3, 40, 40)
    with torch.no_grad():
        model.pos_embed[:, 1:] = model.pos_embed[:, 1:][:, order]
    torch.testing.assert_close(model(moved), wanted, atol=1e-5, rtol=0)


def test_a_patch_whose_key_is_that_of_the_class_query_is_always_kept() -> None:
    model = reduced(keep_rate=0.1)
    block = model.blocks[1]
    planted = torch.zeros(2, 26, 32)
    planted[:, 1:] = torch.randn(2, 25, 32, generator=torch.Generator().manual_seed(0))
    planted[:, 0, 0] = planted[:, 9, 0] = 9.0
    planted[:, 1:9, 0] = planted[:, 10:, 0] = -9.0
    with torch.no_grad():
        block.norm1 = nn.Identity()
        block.attn.qkv.weight[:64] = torch.cat([torch.eye(32), torch.eye(32)])
        block.attn.qkv.bias[:64] = 0
    with stages_tapped(model) as stages:
        block(planted)
    assert bool((stages[0].kept[:, 0] == 8).all())


@pytest.mark.parametrize("kind", ["distilled", "registers"])
def test_tokens_at_the_head_are_never_dropped(kind) -> None:
    model, prefix = reduced(kind, keep_rate=0.05), TIMM[kind][2]
    block, x = model.blocks[1], torch.randn(2, TIMM[kind][2] + 25, 32)
    seen: list[tuple[Tensor, Tensor]] = []
    block.selection.register_forward_hook(lambda _m, given, output: seen.append((given[0], output[0])))
    block(x)
    assert torch.equal(seen[0][0][:, :prefix], seen[0][1][:, :prefix])


def test_without_a_class_token_the_mean_attention_received_ranks() -> None:
    whole = vit("attention pooling")
    x = whole._pos_embed(whole.patch_embed(IMAGES))
    layer = whole.blocks[0]
    tokens = layer.norm1(x)
    q, k, _ = layer.attn.qkv(tokens).reshape(2, 25, 3, 2, 16).unbind(2)
    received = (torch.einsum("bnhd,bmhd->bhnm", q, k) / 4).softmax(-1).mean((1, 2))
    stages, _ = kept_patches(reduced(model=whole, at=[0]), IMAGES)
    assert torch.equal(stages[0].kept, received.topk(13).indices)
    with pytest.raises(ValueError, match="no class token"):
        reduced("attention pooling", score="class")


def encoder(**settings: Any) -> Encoder:
    torch.manual_seed(0)
    return create_encoder("timm/vit_tiny_patch16_224", **{"image_size": 40, **SMALL, **settings}).eval()


@pytest.mark.parametrize("unpool", ["own", "fused"])
def test_dense_features_are_on_the_whole_grid(unpool) -> None:
    model = encoder()
    change_model(model, "reduced-tokens", at=[1, 2], keep_rate=0.5, unpool=unpool)
    seen: list[Tensor] = []
    model.backbone.blocks[3].register_forward_pre_hook(lambda _b, given: seen.append(given[0]))
    features, (stages, masks) = model(IMAGES), kept_patches(model, IMAGES)
    assert features.grid == (5, 5)
    assert features.pyramid[0].shape == (2, 32, 5, 5)
    last = model.backbone.blocks[3]
    behind = model.backbone.norm(type(last).forward(last, seen[0]))
    places = original_places(stages)[-1]
    for image in range(2):
        for token, place in enumerate(places[image].tolist()):
            if place >= 0:
                torch.testing.assert_close(features.patches[image, place], behind[image, 1 + token])
        gone = features.patches[image][~masks[-1, image]]
        distinct = len(torch.unique((gone * 1e4).round(), dim=0))
        assert distinct == len(gone) if unpool == "own" else distinct <= 2


def test_a_saved_encoder_drops_the_same_tokens_again(tmp_path) -> None:
    model = encoder()
    change_model(model, "reduced-tokens", at=[1, 3], keep_rate=[0.5, 0.3], fuse=False)
    model.save_pretrained(tmp_path)
    again = Encoder.from_pretrained(tmp_path)
    assert [block.selection.keep_rate for block in reduced_blocks(again)] == [0.5, 0.3]
    torch.testing.assert_close(again(IMAGES).patches, model(IMAGES).patches)


def test_copies_and_threads_do_not_disturb_each_other() -> None:
    model = reduced()
    wanted = model(IMAGES)
    twin = copy.deepcopy(model)
    assert reduced_blocks(twin)[0].track is not reduced_blocks(model)[0].track
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(model, [IMAGES] * 12):
            torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(twin(IMAGES), wanted)


def test_other_sizes_of_image_are_taken() -> None:
    model = encoder()
    change_model(model, "reduced-tokens", at=[1], keep_rate=0.5)
    assert model(torch.randn(1, 3, 56, 48)).grid == (7, 6)


def test_kept_and_fused_tokens_get_gradients_and_indices_none() -> None:
    selection = TokenSelection(keep_rate=0.5)
    tokens, scores = torch.randn(1, 9, 4, requires_grad=True), torch.rand(1, 8, requires_grad=True)
    out, kept, dropped = selection(tokens, scores)
    assert not kept.requires_grad
    assert not dropped.requires_grad
    (gradient,) = torch.autograd.grad(out[:, -1].sum(), tokens, retain_graph=True)
    assert set(gradient[0].abs().sum(1).nonzero()[:, 0].tolist()) == {1 + j for j in dropped[0].tolist()}
    (gradient,) = torch.autograd.grad(out[:, 1:-1].sum(), tokens, retain_graph=True)
    assert set(gradient[0].abs().sum(1).nonzero()[:, 0].tolist()) == {1 + j for j in kept[0].tolist()}
    (weights,) = torch.autograd.grad(out[:, -1].sum(), scores)
    assert bool((weights.gather(1, kept) == 0).all())


def test_training_under_mixed_precision_stays_finite() -> None:
    model = reduced(model=vit(drop_path_rate=0.1, attn_drop_rate=0.1, proj_drop_rate=0.1)).train()
    optimiser, labels = torch.optim.AdamW(model.parameters(), lr=1e-3), torch.tensor([0, 1])
    losses = []
    for _ in range(12):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = nn.functional.cross_entropy(model(IMAGES), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert all(map(math.isfinite, losses))
    assert losses[-1] < losses[0]


def test_dropout_of_attention_does_not_shake_the_ranking() -> None:
    model = reduced(model=vit(attn_drop_rate=0.5), at=[0]).train()
    with stages_tapped(model) as stages:
        model(IMAGES)
        model(IMAGES)
    assert torch.equal(stages[0].kept, stages[1].kept)


def test_the_warm_up_falls_from_1_to_the_base_by_a_cosine() -> None:
    rates = [keep_rate_at(step, base=0.6, start=10, steps=100) for step in range(130)]
    assert rates[:11] == [1.0] * 11
    assert rates == sorted(rates, reverse=True)
    assert rates[60] == pytest.approx(0.8)
    assert rates[110:] == [0.6] * 20
    assert keep_rate_at(0, base=0.6) == 0.6


def test_the_keep_rate_falls_as_a_model_trains_and_evaluation_takes_the_current_one() -> None:
    model = reduced(at=[1, 2], keep_rate=[0.5, 1.0])
    ends = warm_up_keep_rate(model, start=1, steps=2)
    counts: list[int] = []
    model.blocks[1].register_forward_hook(lambda _b, _i, output: counts.append(output.shape[1]))
    for training in (False, True, True, False, True, False):
        model.train(training)(IMAGES)
    assert counts == [26, 26, 26, 26, 1 + 19 + 1, 1 + 19 + 1]
    ends.remove()
    settle_keep_rate(model)
    model.eval()(IMAGES)
    assert counts[-1] == 1 + 13 + 1
    assert reduced_blocks(model)[1].selection.current == 1.0


def test_another_keep_rate_or_number_is_taken_for_a_while() -> None:
    model = reduced(at=[1, 2], keep_rate=[0.5, 1.0])
    with keeping(model, 0.2):
        assert [stage.kept.shape[1] for stage in kept_patches(model, IMAGES)[0]] == [5]
    with keeping(model, [1.0, 0.4, 0.4, 1.0]):
        assert [stage.kept.shape[1] for stage in kept_patches(model, IMAGES)[0]] == [10]
    with keeping(model, tokens=7):
        assert [stage.kept.shape[1] for stage in kept_patches(model, IMAGES)[0]] == [7]
    with keeping(model, tokens=25), pytest.raises(ValueError, match="keeps all"):
        kept_patches(model, IMAGES)
    assert [stage.kept.shape[1] for stage in kept_patches(model, IMAGES)[0]] == [13]


@pytest.mark.parametrize("rate", [0.0, -0.5, 1.5, math.nan])
def test_keep_rates_out_of_range_are_refused(rate) -> None:
    with pytest.raises(ValueError, match="above 0 to 1"):
        reduced(keep_rate=rate)
    with pytest.raises(ValueError, match="above 0 to 1"), keeping(reduced(), rate):
        pass


@pytest.mark.parametrize("tokens", [26, 0])
def test_more_tokens_than_there_are_are_refused(tokens) -> None:
    model = reduced()
    with keeping(model, tokens=tokens), pytest.raises(ValueError, match="allowed: 1 to 25"):
        model(IMAGES)


@pytest.mark.parametrize(
    ("settings_", "told"),
    [
        ({"at": [4]}, "0 to 3"),
        ({"at": [2, 1]}, "rising"),
        ({"at": []}, "rising"),
        ({"keep_rate": [0.5]}, "1 keep rates for 3"),
        ({"score": "clas"}, "did you mean 'class'"),
        ({"unpool": "owns"}, "did you mean 'own'"),
        ({"unpool": "fused", "fuse": False}, "needs fuse=True"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings_, told) -> None:
    with pytest.raises(ValueError, match=told):
        reduced(**settings_)


def test_models_that_do_not_suit_are_refused() -> None:
    with pytest.raises(ValueError, match="reduced already"):
        reduced(model=reduced())
    for name in (
        "resnet18",
        "swin_tiny_patch4_window7_224",
        "eva02_tiny_patch14_224",
        "beit_base_patch16_224",
    ):
        with torch.device("meta"):
            model = timm.create_model(name)
        with pytest.raises(ValueError, match="allowed: timm's VisionTransformer"):
            change_model(model, "reduced-tokens")
    with pytest.raises(ValueError, match="out_indices"):
        change_model(encoder(out_indices=[1, 3]), "reduced-tokens")
    checkpointed = vit()
    checkpointed.set_grad_checkpointing()
    with pytest.raises(ValueError, match="checkpointing"):
        reduced(model=checkpointed)


def test_masks_of_attention_are_refused() -> None:
    with pytest.raises(ValueError, match="mask of attention"):
        reduced()(IMAGES, attn_mask=torch.ones(26, 26, dtype=torch.bool))


def test_channelvit_drops_tokens_of_channels() -> None:
    torch.manual_seed(0)
    model = create_encoder(
        "channelvit", dim=32, depth=3, heads=2, image_size=32, patch_size=8, in_channels=2, sampling="none"
    ).eval()
    images = torch.randn(2, 2, 32, 32)
    whole = model(images)
    change_model(model, "reduced-tokens", at=[1], keep_rate=0.5)
    assert model(images).patches.shape == whole.patches.shape
    assert kept_patches(model, images)[1].sum(-1).tolist() == [[16, 16]]


def test_capped_attention_keeps_its_cap() -> None:
    whole = encoder(soft_cap=3.0)
    model = copy.deepcopy(whole)
    change_model(model, "reduced-tokens", at=[1], keep_rate=0.5)
    assert kept_patches(model, IMAGES)[1].sum(-1).tolist() == [[13, 13]]
    with keeping(model, 1.0):
        torch.testing.assert_close(model(IMAGES).pooled, whole(IMAGES).pooled, atol=1e-5, rtol=0)


def test_attention_of_every_block_is_met_under_its_name() -> None:
    for kind in ("class token", "attention pooling"):
        layers = attention_of(reduced(kind), IMAGES)
        assert [layer.name for layer in layers[:4]] == [f"blocks.{index}.attn" for index in range(4)]
        prefix = TIMM[kind][2]
        assert [layer.weights.shape[-1] - prefix for layer in layers[:4]] == [25, 25, 14, 8]


def test_a_model_without_reduced_tokens_says_so() -> None:
    with pytest.raises(ValueError, match="keeps all its tokens"):
        reduced_blocks(vit())
    assert isinstance(reduced_blocks(reduced())[0], ReducedBlock)
