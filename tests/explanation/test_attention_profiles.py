"""Profiles of attention over distance, against loops and known heads."""

import math

import pytest
import timm
import torch

from foveal.blocks.attention_taps import LayerAttention
from foveal.explanation.attention_profiles import attention_profiles, offset_sums, profiles_of

IMAGES = torch.rand(3, 3, 32, 48)


def given(among, prefix=0):
    """One layer of one head with attention (n, n) among patches, for three images."""
    tokens = len(among) + prefix
    weights = torch.zeros(tokens, tokens)
    weights[prefix:, prefix:] = among
    if prefix:
        weights[:prefix, 0] = 1
    return [LayerAttention("attn", weights.expand(3, 1, -1, -1))]


def test_profiles_are_those_of_a_loop():
    torch.manual_seed(0)
    weights = torch.rand(3, 2, 25, 25).softmax(-1)
    found = profiles_of([LayerAttention("attn", weights)], IMAGES, prefix_tokens=1, grid=(4, 6))
    among = weights[..., 1:, 1:] / weights[..., 1:, 1:].sum(-1, keepdim=True)
    cells = [(r, c) for r in range(4) for c in range(6)]
    strength, distance = torch.zeros(2, 6), torch.zeros(2)
    density, queries = torch.zeros(2, 6), torch.zeros(6)
    offsets, counts = torch.zeros(2, 7, 11), torch.zeros(7, 11)
    mean = among.mean(0)
    for i, (r, c) in enumerate(cells):
        rings = [max(abs(r - y), abs(c - x)) for y, x in cells]
        for j, (y, x) in enumerate(cells):
            strength[:, rings[j]] += mean[:, i, j] / 24
            distance += mean[:, i, j] * math.hypot((r - y) * 8, (c - x) * 8) / 24
            density[:, rings[j]] += mean[:, i, j] / rings.count(rings[j])
            offsets[:, y - r + 3, x - c + 5] += mean[:, i, j]
            counts[y - r + 3, x - c + 5] += 1
        for k in set(rings):
            queries[k] += 1
    torch.testing.assert_close(found.strength[0].float(), strength)
    torch.testing.assert_close(found.density[0].float(), density / queries)
    torch.testing.assert_close(found.distance[0].float(), distance)
    torch.testing.assert_close(found.offsets[0].float(), offsets / counts)
    torch.testing.assert_close(found.to_prefix[0].float(), weights[..., 1:, 0].mean((0, 2)))
    torch.testing.assert_close(found.from_class[0].float(), weights[..., 0, 1:].sum(-1).mean(0))


def test_even_attention_is_the_share_of_each_ring_and_log_n():
    found = profiles_of(given(torch.full((24, 24), 1 / 24)), IMAGES)
    assert found.grid == (4, 6)
    torch.testing.assert_close(found.strength.sum(-1), torch.ones(1, 1, dtype=torch.float64))
    torch.testing.assert_close(found.density, torch.full((1, 1, 6), 1 / 24, dtype=torch.float64))
    torch.testing.assert_close(found.offsets, torch.full((1, 1, 7, 11), 1 / 24, dtype=torch.float64))
    assert found.entropy.item() == pytest.approx(math.log(24))
    assert found.kinds() == [["global"]]


def test_a_head_that_looks_at_itself():
    found = profiles_of(given(torch.eye(24)), IMAGES)
    assert found.strength[0, 0].tolist() == [1, 0, 0, 0, 0, 0]
    assert found.distance.item() == 0
    assert found.kinds() == [["self"]]


def test_a_head_that_looks_to_the_right_is_one_cell_of_the_offsets():
    right = torch.zeros(24, 24)
    for cell in range(24):
        right[cell, cell + 1 if cell % 6 < 5 else cell] = 1
    found = profiles_of(given(right), IMAGES)
    assert found.offsets[0, 0, 3, 6] == 1
    assert found.strength[0, 0, 1].item() == pytest.approx(5 / 6)
    assert found.kinds() == [["local"]]


def test_a_head_that_looks_at_the_class_token_is_a_sink():
    weights = torch.full((3, 1, 25, 25), 0.1 / 24)
    weights[..., 0] = 0.9
    found = profiles_of([LayerAttention("attn", weights)], IMAGES)
    assert found.to_prefix.item() == pytest.approx(0.9)
    assert found.kinds() == [["sink"]]


def test_batches_are_averaged():
    torch.manual_seed(0)
    vit = timm.create_model(
        "vit_tiny_patch16_224", img_size=(32, 48), patch_size=8, embed_dim=16, depth=2, num_heads=2
    ).eval()
    whole, parts = attention_profiles(vit, IMAGES), attention_profiles(vit, IMAGES, batch_size=2)
    assert whole.strength.shape == (2, 2, 6)
    for name in ("strength", "density", "distance", "entropy", "to_prefix", "from_class", "offsets"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), msg=name)


def test_registers_are_left_out_as_the_model_tells():
    vit = timm.create_model(
        "vit_small_patch14_reg4_dinov2", img_size=(56, 84), embed_dim=16, depth=1, num_heads=2
    ).eval()
    found = attention_profiles(vit, torch.rand(1, 3, 56, 84))
    assert found.grid == (4, 6)
    assert 0 < found.to_prefix[0, 0] < 1


def test_windows_have_rings_of_their_own_and_missing_heads_are_nan():
    swin = timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=56, embed_dim=24, depths=(1, 1), num_heads=(1, 2)
    ).eval()
    found = attention_profiles(swin, torch.rand(2, 3, 56, 56))
    assert found.grid == (7, 7)
    assert found.windows == (4, 1)
    assert found.strength.shape == (2, 2, 7)
    assert found.strength[0, 1].isnan().all()
    torch.testing.assert_close(found.strength[1].sum(-1), torch.ones(2, dtype=torch.float64))
    assert found.kinds()[0][1] == ""
    # patches of the second stage are twice as wide
    even = [attention_distance(4.0), attention_distance(8.0)]
    assert found.distance[0, 0].item() == pytest.approx(even[0], rel=0.1)
    assert found.distance[1, 0].item() == pytest.approx(even[1], rel=0.1)


def attention_distance(side):
    """Mean distance of even attention on 7 x 7 patches."""
    places = torch.cartesian_prod(torch.arange(7.0), torch.arange(7.0)) * side
    return torch.cdist(places, places).mean().item()


def test_even_attention_is_the_mean_share_of_patches_in_each_ring():
    found = profiles_of(given(torch.full((24, 24), 1 / 24)), IMAGES).strength[0, 0]
    cells = [(r, c) for r in range(4) for c in range(6)]
    for k in range(6):
        pairs = sum(max(abs(a - c), abs(b - d)) == k for a, b in cells for c, d in cells)
        assert found[k].item() == pytest.approx(pairs / 24 / 24)


def test_offsets_are_summed_as_by_a_loop():
    among = torch.rand(2, 12, 12, dtype=torch.float64)
    wanted = torch.zeros(2, 5, 7, dtype=torch.float64)
    for i in range(12):
        for j in range(12):
            wanted[:, j // 4 - i // 4 + 2, j % 4 - i % 4 + 3] += among[:, i, j]
    torch.testing.assert_close(offset_sums(among, (3, 4)), wanted)


def test_heads_of_one_profile_are_one_group():
    near, even = torch.eye(24), torch.full((24, 24), 1 / 24)
    kept = [LayerAttention(str(k), given(each)[0].weights) for k, each in enumerate((near, even, near, even))]
    numbers, centres = profiles_of(kept, IMAGES).groups(2)
    assert numbers.flatten().tolist() == [0, 1, 0, 1]
    assert centres[0, 0] == 1
    assert profiles_of(kept, IMAGES).groups()[0].flatten().tolist() == [0, 1, 0, 1]


def test_the_trend_is_the_mean_of_a_layers_heads():
    vit = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=16, depth=2, num_heads=2
    ).eval()
    found = attention_profiles(vit, torch.rand(1, 3, 32, 32))
    torch.testing.assert_close(found.trend(), found.strength.mean(1))


def test_models_without_attention_are_refused():
    with pytest.raises(ValueError, match="has no attention"):
        attention_profiles(timm.create_model("resnet10t").eval(), torch.rand(1, 3, 32, 32))


def test_keys_that_are_not_the_queries_are_refused():
    with pytest.raises(ValueError, match="among the same tokens"):
        profiles_of([LayerAttention("attn", torch.rand(3, 1, 24, 6).softmax(-1))], IMAGES)
