"""Bags: reordering, padding that changes nothing, pooling, the classifier."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from foveal.blocks.bags import GatedAttentionPool, MeanPool, SRMamba, bag_lengths, pad_bags, reordered
from foveal.blocks.mamba import MambaMixer
from foveal.blocks.scan_routes import scan_routes
from foveal.models.bags import BagClassifier, BagClassifierConfig
from foveal.objectives.bags import BagObjective


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@given(rows=st.integers(1, 9), rate=st.integers(1, 9))
def test_reordering_is_the_transpose_of_rows_of_the_rate(rows: int, rate: int):
    length = rows * rate
    order = reordered(torch.tensor([length]), length, rate)[0]
    assert torch.equal(order, torch.arange(length).reshape(rows, rate).T.flatten())
    assert torch.equal(order, scan_routes("inter-slice", length, nslices=rows)[0])


@given(length=st.integers(1, 30), padding=st.integers(0, 5), rate=st.integers(1, 12))
def test_any_length_is_reordered_with_its_padding_last(length: int, padding: int, rate: int):
    order = reordered(torch.tensor([length]), length + padding, rate)[0].tolist()
    assert sorted(order[:length]) == list(range(length))
    assert order[length:] == list(range(length, length + padding))


def test_reordered_mamba_is_two_mambas_that_share_their_projections():
    mixer, first, second = SRMamba(8, rate=5, states=4), MambaMixer(8, states=4), MambaMixer(8, states=4)
    for number, plain in enumerate((first, second)):
        plain.in_proj, plain.out_proj = mixer.in_proj, mixer.out_proj
        plain.conv1d, plain.scan = mixer.convs[number], mixer.scans[number]
    x = torch.randn(2, 20, 8)
    order = torch.arange(20).reshape(4, 5).T.flatten()
    parts = [first.inner(x, ["forward"])[0], second.inner(x, [order])[0]]
    expected = mixer.out_proj(parts[0] + parts[1])
    torch.testing.assert_close(mixer(x), expected)


def test_a_bag_in_a_padded_batch_is_classified_as_it_is_alone():
    model = BagClassifier(BagClassifierConfig(inputs=6, classes=3, dim=16, rate=4)).eval()
    alone = [torch.randn(length, 6) for length in (1, 7, 20, 13)]
    bags, mask = pad_bags(alone)
    bags[~mask] = 1e3  # what lies behind a bag is not looked at
    together = model(bags, mask)
    for bag, logits in zip(alone, together, strict=True):
        torch.testing.assert_close(model(bag[None])[0], logits, rtol=1e-4, atol=1e-5)
    weights = model.attention(bags, mask)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(4))
    assert not weights[~mask].any()


def test_pooling_without_padding_is_a_weighted_mean():
    x = torch.randn(2, 9, 6)
    torch.testing.assert_close(MeanPool()(x), x.mean(dim=1))
    pool = GatedAttentionPool(6, hidden=4)
    torch.testing.assert_close(pool(x), (pool.weights(x)[..., None] * x).sum(dim=1))


def test_every_parameter_learns_and_the_model_is_saved_and_loaded(tmp_path):
    model = BagClassifier(BagClassifierConfig(inputs=6, classes=2, dim=16, rate=4, head_hidden=8))
    bags, mask = pad_bags([torch.randn(12, 6), torch.randn(9, 6)])
    BagObjective(model)({"bags": bags, "present": mask, "labels": torch.tensor([0, 1])})["loss"].backward()
    assert all(
        p.grad is not None and p.grad.abs().max() > 0
        for n, p in model.named_parameters()
        if "score.bias" not in n
    )
    again = BagClassifier.from_pretrained(model.save_pretrained(tmp_path / "model"))
    torch.testing.assert_close(again(bags, mask), model.eval()(bags, mask))


def test_unfit_bags_are_refused():
    with pytest.raises(ValueError, match="none empty"):
        pad_bags([torch.zeros(0, 3)])
    with pytest.raises(ValueError, match="padding before an instance"):
        bag_lengths(torch.zeros(1, 3, 2), torch.tensor([[True, False, True]]))
    with pytest.raises(ValueError, match="a mask"):
        bag_lengths(torch.zeros(1, 3, 2), torch.ones(1, 3))
    with pytest.raises(ValueError, match="rate is 0"):
        SRMamba(8, rate=0)
    with pytest.raises(ValueError, match=r"allowed: \(B, L, 6\)"):
        BagClassifier(BagClassifierConfig(inputs=6, classes=2, dim=8))(torch.zeros(1, 4, 5))
