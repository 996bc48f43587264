from collections import Counter
from math import comb

import pytest
import torch
from scipy.stats import chisquare

from foveal.blocks.channel_tokens import (
    ChannelMerge,
    ChannelSampler,
    ChannelTokenizer,
    channel_indices,
    draw_channels,
    present_channels,
    rescale_channels,
    stack_channels,
)


def _draws(mode: str, count: int = 5, number: int = 20_000) -> list[frozenset[int]]:
    generator = torch.Generator().manual_seed(1)
    return [frozenset(draw_channels(count, mode=mode, generator=generator).tolist()) for _ in range(number)]


def test_hierarchical_sampling_draws_all_sizes_and_all_subsets_of_a_size_alike():
    drawn = _draws("hcs")
    sizes = Counter(map(len, drawn))
    assert chisquare([sizes[m] for m in range(1, 6)]).pvalue > 0.01
    for subset, times in Counter(drawn).items():
        assert times / len(drawn) == pytest.approx(1 / (5 * comb(5, len(subset))), rel=0.15)
    assert len(set(drawn)) == 2**5 - 1


def test_channel_dropout_does_not_draw_sizes_alike():
    sizes = Counter(map(len, _draws("dropout", number=4000)))
    assert chisquare([sizes[m] for m in range(1, 6)]).pvalue < 1e-6
    assert sizes[2] + sizes[3] > 0.6 * 4000


def test_draws_follow_the_seed_and_the_count_of_draws_alone():
    images, channels = torch.rand(2, 6, 4, 4), torch.arange(6).expand(2, -1)
    first, second = ChannelSampler(seed=3), ChannelSampler(seed=3)
    lengths = []
    for step in range(20):
        torch.manual_seed(step)  # other draws from the global generator change nothing
        kept = first(images, channels)[1]
        assert torch.equal(kept, second(images, channels)[1])
        lengths.append(kept.shape[1])
    assert len(set(lengths)) > 3
    resumed = ChannelSampler(seed=3)
    resumed.load_state_dict(first.state_dict())
    assert torch.equal(resumed(images, channels)[1], second(images, channels)[1])


def test_sampler_takes_images_and_indices_alike_and_nothing_in_evaluation():
    sampler = ChannelSampler(seed=0)
    channels = torch.tensor([[2, 0, 3], [2, 0, 3]])
    images = channels[..., None, None].float().expand(-1, -1, 4, 4)
    kept_images, kept = sampler(images, channels)
    assert torch.equal(kept_images[:, :, 0, 0].long(), kept)
    assert torch.equal(kept[0], kept[1])
    sampler.eval()
    assert sampler(images, channels)[0] is images


def test_images_with_fewer_channels_draw_among_their_own():
    sampler = ChannelSampler(seed=0)
    images, channels = stack_channels([torch.ones(1, 4, 4), torch.ones(3, 4, 4)], [[2], [0, 1, 3]])
    for _ in range(20):
        kept_images, kept = sampler(images, channels)
        assert set(kept[0].tolist()) - {-1} == {2}
        assert set(kept[1].tolist()) - {-1} <= {0, 1, 3}
        assert (kept[1] >= 0).any()
        assert torch.equal(kept_images[:, :, 0, 0] > 0, kept >= 0)


def test_tokens_are_ordered_by_channel_row_and_column():
    tokenizer = ChannelTokenizer(2, 1, patch_size=2)
    with torch.no_grad():
        tokenizer.project.weight.fill_(0.25)
        tokenizer.project.bias.zero_()
        tokenizer.embedding.zero_()
    numbers = torch.arange(12.0).reshape(1, 2, 2, 3)
    images = numbers.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    tokens = tokenizer(images, torch.tensor([[0, 1]]))
    assert torch.equal(tokens[..., 0], numbers)
    assert torch.equal(tokens.flatten(), torch.arange(12.0))


def test_projection_is_as_large_for_any_number_of_channels():
    for channels in (1, 3, 18):
        sizes = {
            name: p.numel() for name, p in ChannelTokenizer(channels, 24, patch_size=8).named_parameters()
        }
        assert sizes == {
            "project.weight": 8 * 8 * 24,
            "project.bias": 24,
            "embedding": channels * 24,
        }


IMAGES = torch.rand(2, 2, 4, 4)


@pytest.mark.parametrize(
    ("channels", "complaint"),
    [
        ([0, 4], "0 to 3"),
        ([0, -2], "0 to 3"),
        ([1, 1], "same channel twice"),
        ([0], "an index for each channel"),
        ([[0, 1]] * 3, "an index for each channel"),
        ([[-1, -1], [0, 1]], "no channel at all"),
        ([0.0, 1.0], "integers"),
        (None, "tell which ones"),
    ],
)
def test_wrong_indices_are_named(channels, complaint):
    with pytest.raises(ValueError, match=complaint):
        channel_indices(IMAGES, channels, known=4)


def test_an_empty_set_of_channels_is_refused():
    with pytest.raises(ValueError, match="a channel at least"):
        channel_indices(IMAGES[:, :0], [], known=4)


def test_indices_default_to_all_channels_in_order():
    assert channel_indices(IMAGES, None, known=2).tolist() == [[0, 1], [0, 1]]
    assert channel_indices(IMAGES, [3, 0], known=4).tolist() == [[3, 0], [3, 0]]


@pytest.mark.parametrize("wrong", [{"mode": "all"}, {"mode": "dropout", "rate": 1.0}])
def test_wrong_sampling_is_named(wrong):
    with pytest.raises(ValueError, match="allowed"):
        ChannelSampler(**wrong)


def test_rescaled_channels_keep_the_sum_of_equal_channels():
    images = torch.ones(2, 4, 3, 3)
    images[1, :3] = 0
    rescaled = rescale_channels(images, present_channels(images))
    torch.testing.assert_close(rescaled.sum(dim=1), torch.full((2, 3, 3), 4.0))
    with pytest.raises(ValueError, match="no channel at all"):
        rescale_channels(images, torch.zeros(4, dtype=torch.bool))


@pytest.mark.parametrize("mode", ["mean", "attention"])
def test_merging_passes_over_absent_channels_and_does_not_depend_on_their_order(mode):
    merge = ChannelMerge(4, 6, mode=mode)
    tokens, channels = torch.rand(1, 3, 2, 2, 6), torch.tensor([[2, 0, 3]])
    merged = merge(tokens, channels)
    assert merged.shape == (1, 2, 2, 6)
    torch.testing.assert_close(merge(tokens.flip(1), channels.flip(1)), merged)
    padded = torch.cat([tokens, torch.rand(1, 1, 2, 2, 6)], dim=1)
    torch.testing.assert_close(merge(padded, torch.tensor([[2, 0, 3, -1]])), merged)


def test_concatenation_goes_by_index_and_wants_all_channels():
    merge = ChannelMerge(3, 2, mode="concat")
    tokens = torch.rand(1, 3, 1, 1, 2)
    merged = merge(tokens, torch.tensor([[2, 0, 1]]))
    torch.testing.assert_close(merged[0, 0, 0], torch.cat([tokens[0, c, 0, 0] for c in (1, 2, 0)]))
    with pytest.raises(ValueError, match="give all of them"):
        merge(tokens[:, :2], torch.tensor([[0, 1]]))
