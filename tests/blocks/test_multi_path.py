import pytest
import torch
from torch import nn

from foveal.blocks.multi_path import MultiPath, along, spread_over_shuffles


class Running(nn.Module):
    """A causal mixer that depends on the order: the running mean of the tokens so far."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.project = nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.project(x).cumsum(1) / torch.arange(1, x.shape[1] + 1)[:, None]


@pytest.mark.parametrize("length", [1, 5, 196, 784])
def test_every_path_is_put_back_exactly(length):
    x = torch.randn(2, length, 3)
    orders = ["forward", "reverse", torch.randperm(length)]
    for path in along(nn.Identity(), x, orders):
        assert torch.equal(path, x)


def test_paths_are_fused_as_three_indexings_and_a_gate():
    torch.manual_seed(0)
    x, order = torch.randn(2, 7, 4), torch.randperm(7)
    mixer = Running(4)
    block = MultiPath(mixer, 4)
    back = torch.empty_like(order)
    back[order] = torch.arange(7)
    paths = [mixer(x), mixer(x.flip(1)).flip(1), mixer(x[:, order])[:, back]]
    gate = torch.softmax(torch.cat([p.mean(1) for p in paths], -1) @ block.gate[0].weight.T, -1)
    wanted = sum(gate[:, k, None, None] * paths[k] for k in range(3))
    torch.testing.assert_close(block(x, orders=["forward", "reverse", order]), wanted)


def test_weights_of_the_gate_sum_to_one_and_are_seen_by_hooks():
    block, seen = MultiPath(Running(4), 4), []
    block.gate.register_forward_hook(lambda *arguments: seen.append(arguments[-1]))
    block(torch.randn(5, 6, 4))
    torch.testing.assert_close(seen[0].sum(-1), torch.ones(5))


def test_a_gate_on_the_first_path_leaves_the_mixer_alone():
    x, block = torch.randn(2, 6, 4), MultiPath(Running(4), 4)
    block.gate = nn.Sequential(OneHot())
    torch.testing.assert_close(block(x), block.mixer(x), rtol=0, atol=0)


class OneHot(nn.Module):
    def forward(self, means):
        return torch.tensor([[1.0, 0.0, 0.0]]).expand(len(means), 3)


def test_a_mixer_of_single_tokens_makes_the_permutation_irrelevant():
    x = torch.randn(2, 9, 4)
    block = MultiPath(nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4)), 4).train()
    torch.testing.assert_close(block(x), block(x))


def test_permutations_given_once_are_paths():
    x, order = torch.randn(2, 6, 4), torch.randperm(6)
    mixer = Running(4)
    block = MultiPath(mixer, 4, paths=("forward", order), fuse="mean")
    wanted = (mixer(x) + mixer(x[:, order])[:, order.argsort()]) / 2
    torch.testing.assert_close(block(x), wanted)
    assert not any("order" in name for name in block.state_dict())


def test_fixed_permutations_are_bit_reproducible_and_random_ones_differ():
    x, block = torch.randn(2, 30, 4), MultiPath(Running(4), 4).eval()
    assert torch.equal(block(x), block(x))
    block.shuffle = "random"
    assert not torch.equal(block(x), block(x))


def test_training_draws_anew_and_follows_the_seed_of_torch():
    x, block = torch.randn(2, 30, 4), MultiPath(Running(4), 4).train()
    torch.manual_seed(1)
    first, second = block(x), block(x)
    torch.manual_seed(1)
    assert torch.equal(first, block(x))
    assert not torch.equal(first, second)


def test_averaging_draws_narrows_the_spread_like_the_root_of_their_number():
    torch.manual_seed(0)
    x, spreads = torch.randn(8, 40, 4), {}
    for draws in (1, 16):
        block = MultiPath(Running(4), 4, fuse="mean", shuffle="average", draws=draws)
        block.mixer.load_state_dict({"project.weight": torch.eye(4), "project.bias": torch.zeros(4)})
        mean, spread = spread_over_shuffles(nn.Sequential(block).eval(), x, passes=40)
        assert mean.shape == x.shape
        spreads[draws] = float(spread.mean())
    assert spreads[1] / spreads[16] == pytest.approx(4, rel=0.15)


def test_the_spread_leaves_the_seed_as_it_was():
    block = MultiPath(Running(4), 4, seed=7).eval()
    first = spread_over_shuffles(block, torch.randn(1, 5, 4), passes=3)[0]
    assert block.seed == 7
    assert first.shape == (1, 5, 4)
    with pytest.raises(ValueError, match="evaluation mode"):
        spread_over_shuffles(block.train(), torch.randn(1, 5, 4))


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"paths": ("forwards",)}, "did you mean 'forward'"),
        ({"paths": ()}, "0 paths"),
        ({"fuse": "sum"}, "unknown fuse"),
        ({"shuffle": "fixd"}, "did you mean 'fixed'"),
        ({"draws": 0}, "0 draws"),
    ],
)
def test_unknown_settings_are_refused(settings, complaint):
    with pytest.raises(ValueError, match=complaint):
        MultiPath(Running(4), 4, **settings)


@pytest.mark.parametrize("order", [torch.arange(4), torch.zeros(5, dtype=torch.int64)])
def test_a_wrong_permutation_is_refused(order):
    with pytest.raises(ValueError, match="an order of"):
        MultiPath(Running(4), 4, paths=("forward", order))(torch.randn(1, 5, 4))
    with pytest.raises(ValueError, match="2 orders for 3 paths"):
        MultiPath(Running(4), 4)(torch.randn(1, 5, 4), orders=["forward", "reverse"])
