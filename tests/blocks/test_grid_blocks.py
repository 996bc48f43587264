"""Blocks by name, products of scans, recurrent scans, graphs: formulas and errors."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from foveal.blocks.direction_aware import DirectionAwareMamba, directions_of
from foveal.blocks.graph_adapter import GraphThenSequence
from foveal.blocks.grid_blocks import GRID_BLOCKS, create_grid_block, list_grid_blocks
from foveal.blocks.high_order_scan import HighOrderScan
from foveal.blocks.mamba import MambaMixer
from foveal.blocks.recurrent_scan import FrameState, RecurrentScan, ScanLSTMCell
from foveal.blocks.routed_mamba import RoutedMamba
from foveal.blocks.scan_routes import list_scans, routes_of


def assert_near(ours, expected):
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("dimensions", [2, 3])
def test_the_residual_scan_is_that_of_transformers(dimensions: int, their_mixer) -> None:
    block = create_grid_block("mamba", 8, dimensions=dimensions, scan="row")
    x = torch.randn(2, 8, *(3, 4, 2)[:dimensions])
    tokens = F.layer_norm(x.flatten(2).mT, (8,))
    assert_near(block(x), x + their_mixer(block.layer.mixer)(tokens).mT.reshape(x.shape))


@torch.no_grad()
def test_convolutions_stand_beside_or_before_a_scan(their_mixer) -> None:
    x = torch.randn(2, 8, 3, 4)

    def scanned(mixer, x):
        return their_mixer(mixer)(F.layer_norm(x.flatten(2).mT, (8,))).mT.reshape(x.shape)

    beside = create_grid_block("conv-beside-scan", 8, scan="row")
    assert_near(beside(x), beside.conv(x) + scanned(beside.scan.layer[1], x))
    serial = create_grid_block("conv-then-scan", 8, scan="row")
    y = serial[0](x)
    assert_near(serial(x), y + scanned(serial[1].layer.mixer, y))


@pytest.mark.parametrize("scan", list_scans())
@pytest.mark.parametrize("dimensions", [2, 3])
def test_every_scan_goes_into_a_block(scan: str, dimensions: int) -> None:
    block = create_grid_block("mamba", 4, dimensions=dimensions, scan=scan, states=2)
    x = torch.randn(1, 4, *(5, 3, 4)[:dimensions])
    assert block(x).shape == x.shape


@pytest.mark.parametrize("name", list_grid_blocks())
def test_every_block_scans_in_32_bits_under_autocast(name: str) -> None:
    kind = GRID_BLOCKS[name]
    axes = kind.dimensions[0]
    size = (4, 3, 5)[:axes]
    block, seen = create_grid_block(name, 32, dimensions=axes, grid=size), []
    from foveal.blocks.mamba import SelectiveScan

    for module in block.modules():
        if isinstance(module, SelectiveScan):
            module.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        y = block(torch.randn(1, 32, *size))
    assert torch.isfinite(y).all()
    assert set(seen) <= {torch.float32}
    assert bool(seen) == (name not in ("attention", "conv", "gsc", "lightm-conv"))


@torch.no_grad()
def test_high_order_scans_are_multiplied_with_growing_width() -> None:
    mixer, x = HighOrderScan(8, order=3), torch.randn(2, 3, 4, 8)
    p, q0, q1, q2 = mixer.in_proj(x).split([2, 2, 4, 8], dim=-1)
    p = p * mixer.scans[0](q0)
    p = F.linear(p, mixer.widen[0].weight, mixer.widen[0].bias) * mixer.scans[1](q1)
    p = F.linear(p, mixer.widen[1].weight, mixer.widen[1].bias) * mixer.scans[2](q2)
    assert_near(mixer(x), mixer.out_proj(p))
    with pytest.raises(ValueError, match="6 channels for order 3; allowed"):
        HighOrderScan(6, order=3)


@torch.no_grad()
def test_recurrent_scans_go_frame_by_frame_and_do_not_look_ahead() -> None:
    layer, x = RecurrentScan(8), torch.randn(1, 8, 4, 3, 5)
    frames = layer.norm(x.movedim(1, -1)).unbind(1)
    state = FrameState(torch.zeros(1, 3, 5, 8), torch.zeros(1, 3, 5, 8))
    for number, frame in enumerate(frames):
        o = layer.cell.blocks(layer.cell.join(torch.cat([frame, state.hidden], dim=-1)))
        cell = torch.sigmoid(o) * (state.cell + torch.tanh(o))
        state = FrameState(torch.sigmoid(o) * torch.tanh(cell), cell)
        assert_near(layer(x)[:, :, number] - x[:, :, number], state.hidden.movedim(-1, 1))
    changed = x.clone()
    changed[:, :, 3] += 1
    assert torch.equal(layer(changed)[:, :, :3], layer(x)[:, :, :3])
    assert ScanLSTMCell(8)(torch.randn(2, 3, 5, 8)).hidden.shape == (2, 3, 5, 8)


@torch.no_grad()
def test_any_graph_network_goes_before_a_mixer(their_mixer) -> None:
    def neighbours(nodes, edges):
        return torch.zeros_like(nodes).index_add(1, edges[1], nodes[:, edges[0]])

    mixer, nodes = MambaMixer(8), torch.randn(2, 5, 8)
    edges = torch.tensor([[0, 1, 2], [1, 2, 0]])
    layer = GraphThenSequence(8, neighbours, mixer)
    told = nodes + neighbours(F.layer_norm(nodes, (8,)), edges)
    assert_near(layer(nodes, edges), told + their_mixer(mixer)(F.layer_norm(told, (8,))))
    with pytest.raises(ValueError, match="the graph network made"):
        GraphThenSequence(8, lambda nodes, edges: nodes[:, :2], nn.Identity())(nodes, edges)


def test_one_route_can_be_walked_in_turn() -> None:
    block = create_grid_block("mamba", 4, scan="zigzag", turn=9)
    mixer, x = block.layer.mixer, torch.randn(1, 3, 4, 4)
    assert mixer.numbers == (1,)
    alone = RoutedMamba(4, routes="zigzag", numbers=(1, 3))
    alone.ways[0].load_state_dict(mixer.ways[0].state_dict())
    assert len(alone.ways) == 2
    order = routes_of("zigzag", 3, 4).order[1]
    first, last = order[0], order[-1]
    changed = x.flatten(1, 2).clone()
    changed[:, last] += 1
    difference = (mixer(changed.view(x.shape)) - mixer(x)).flatten(1, 2).abs().sum(-1)[0]
    assert difference[first] == 0
    assert difference[last] > 0
    with pytest.raises(ValueError, match=r"block 'ss2d' cannot walk one route .* allowed: .*mamba"):
        create_grid_block("ss2d", 4, turn=0)
    with pytest.raises(ValueError, match=r"numbers is \(8,\); allowed: one or more of 0 to 7"):
        RoutedMamba(4, routes="zigzag", numbers=(8,))


def test_routes_are_searched_by_their_weights() -> None:
    torch.manual_seed(0)
    mixer = RoutedMamba(4, routes=("row", "col", "row_r", "col_r"), merge="search")
    x = torch.randn(8, 4, 4, 4)
    optimizer = torch.optim.Adam(mixer.parameters(), lr=0.03)
    for _ in range(80):  # the sum of all cells that come later in raster order
        target = x.flatten(1, 2).flip(1).cumsum(1).flip(1).view(x.shape)
        loss = (mixer(x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert mixer.best_routes(1) == (2,)
    assert len(mixer.best_routes(2)) == 2
    with pytest.raises(ValueError, match="merge='search'"):
        RoutedMamba(4).best_routes(1)


@torch.no_grad()
def test_directions_of_steps_are_told_to_continuous_scans() -> None:
    found = directions_of(routes_of("C", 2, 3))
    assert found[0].view(2, 3).tolist() == [[0, 3, 3], [4, 4, 1]]  # right, right, down, left, left
    mixer, x = DirectionAwareMamba(8, routes="snake"), torch.randn(1, 2, 3, 8)
    before = mixer(x)
    mixer.scan.directions[1] += 1  # of the one step down
    changed = (mixer(x) - before).abs().sum(-1)[0] > 0
    assert changed.tolist() == [[False] * 3, [True] * 3]
    mixer.scan.directions.zero_()
    u, z = mixer.in_proj(x).chunk(2, dim=-1)
    u = F.silu(mixer.conv(u.movedim(-1, 1))).movedim(1, -1).flatten(1, 2)
    order = routes_of("snake", 2, 3).order[0]
    plain = mixer.scan(u[:, order], z=z.flatten(1, 2)[:, order])[:, order.argsort()]
    assert_near(mixer(x), mixer.out_proj(plain).view(x.shape))
    with pytest.raises(ValueError, match="step to a cell that is no neighbour"):
        DirectionAwareMamba(8, routes="row")(x)


def test_unknown_blocks_and_grids_that_do_not_suit_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown block 'pvmm'; did you mean 'pvm'"):
        create_grid_block("pvmm", 8)
    with pytest.raises(ValueError, match="takes spatial_dims 3, not 2"):
        create_grid_block("vmrnn", 8, dimensions=2)
    with pytest.raises(ValueError, match="8 channels do not divide into heads of 32"):
        create_grid_block("attention", 8)
    with pytest.raises(ValueError, match=r"allowed: \(B, T, H, W, 8\)"):
        create_grid_block("mamba", 8, dimensions=3)(torch.randn(1, 8, 4, 4))
    x = torch.randn(1, 8, 4, 4)
    x[0, 1, 2, 3] = torch.nan
    with pytest.raises(FloatingPointError, match="NaN or infinite"):
        create_grid_block("mamba", 8)(x)
