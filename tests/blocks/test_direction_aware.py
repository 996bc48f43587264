"""Mixers that know the direction of a step, and routes found by search."""

import pytest
import torch
from torch import nn

from foveal.blocks.direction_aware import DirectionAwareMixer, DirectionAwareScan, SearchedSS2D
from foveal.blocks.mamba import SelectiveScan
from foveal.blocks.scan_routes import routes_of
from foveal.blocks.ss2d import SS2D


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


MIXERS = {
    "direction-aware": lambda: DirectionAwareMixer(8, states=4),
    "searched": lambda: SearchedSS2D(8, states=4, route_options={"window": 2}),
}


@pytest.mark.parametrize("name", MIXERS)
def test_mixers_keep_the_shape_of_odd_maps_and_every_parameter_learns(name: str):
    mixer = MIXERS[name]()
    x = torch.randn(2, 5, 7, 8)
    y = mixer(x)
    (y * torch.randn_like(y)).sum().backward()
    assert y.shape == x.shape
    still = [n for n, p in mixer.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert not still


def test_volumes_are_mixed_too():
    mixer = DirectionAwareMixer(4, dimensions=3, states=2)
    assert mixer(torch.randn(1, 3, 4, 5, 4)).shape == (1, 3, 4, 5, 4)
    assert mixer.scan.directions.shape == (7, 2)


def test_direction_aware_scan_equals_the_plain_one_until_its_directions_are_learnt():
    scan, plain = DirectionAwareScan(6, states=3, rank=1), SelectiveScan(6, states=3, rank=1)
    plain.load_state_dict({k: v for k, v in scan.state_dict().items() if k != "directions"})
    x, routes = torch.randn(2, 12, 6), routes_of("C", 3, 4)
    for k, order in enumerate(routes.order):
        torch.testing.assert_close(scan.forward_along(x, routes, k), plain(x, order=order))
    nn.init.normal_(scan.directions)
    assert not torch.allclose(scan.forward_along(x, routes, 0), plain(x, order=routes.order[0]))


def test_directions_reach_the_steps_of_their_kind_only():
    """On the forward snake of two rows no step goes up."""
    scan = DirectionAwareScan(6, states=3, rank=1)
    y = scan.forward_along(torch.randn(1, 8, 6), routes_of("snake", 2, 4), 0)
    y.square().sum().backward()
    moved = scan.directions.grad.abs().sum(dim=1) > 0
    assert moved.tolist() == [True, True, False, True, True]  # start, down, up, right, left


def test_a_search_begins_as_the_sum_of_its_candidates_and_ends_as_that_of_those_kept():
    searched = SearchedSS2D(4, routes=("cross", "window"), route_options={"window": 2}, states=2)
    plain = SS2D(4, routes=("cross", "window"), route_options={"window": 2}, states=2)
    plain.load_state_dict({k: v for k, v in searched.state_dict().items() if k not in ("scores", "kept")})
    x = torch.randn(1, 4, 6, 4)
    torch.testing.assert_close(searched(x), plain(x))
    with torch.no_grad():
        searched.scores.copy_(torch.tensor([3.0, 0, 0, 2, 0, 0, 1, 0]))
    assert searched.prune(3) == [0, 3, 6]
    tokens, routes = x.flatten(1, 2).repeat(1, 1, 2), routes_of(("cross", "window"), 4, 6, window=2)
    kept = sum(scan(tokens, order=routes.order[k]) for k, scan in zip((0, 3, 6), searched.scans, strict=True))
    torch.testing.assert_close(searched.scan(tokens.view(1, 4, 6, 8)), kept.view(1, 4, 6, 8))
    assert len(searched.scans) == 3
    assert searched(x).shape == x.shape
    with pytest.raises(ValueError, match="the search has ended"):
        searched.prune(2)


def test_unfit_maps_are_refused():
    with pytest.raises(ValueError, match="begin anew"):
        DirectionAwareMixer(8, routes="atrous")(torch.randn(1, 4, 4, 8))
    with pytest.raises(ValueError, match="keep is 9; allowed: 1 to 8"):
        SearchedSS2D(8).prune(9)
