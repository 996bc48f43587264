"""SS2D, MS2D and the multi-head scan: identities between them, state leaks, ties, errors."""

import pytest
import torch
from torch import Tensor, nn

from foveal.blocks.mamba import SelectiveScan
from foveal.blocks.ms2d import MS2D, ConvFeedForward, SharedScan
from foveal.blocks.multi_head_scan import GatedMultiHeadScan, MHScan, RouteAttention, variation
from foveal.blocks.scan_routes import routes_of, scan_routes
from foveal.blocks.ss2d import SS2D, ScanBlock, scan_route
from foveal.kernels.selective_scan import selective_scan


class Identity(nn.Module):
    """A scan that returns its input."""

    def forward(self, x: Tensor, *, order: Tensor | None = None) -> Tensor:
        return x


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("grid", [(5, 7), (8, 3), (1, 6), (4, 4)])
def test_merging_four_identity_scans_gives_four_times_the_map(grid: tuple[int, int]) -> None:
    block = SS2D(4)
    block.scans = nn.ModuleList(Identity() for _ in range(4))
    x = torch.randn(2, *grid, 8)
    assert torch.equal(block.scan(x), 4 * x)


@pytest.mark.parametrize("name", ["cross", "C", "X", "S", "hilbert", "strips"])
def test_scanning_in_place_equals_gathering_scanning_and_restoring(name: str) -> None:
    block = SS2D(4, routes=name)
    x = torch.randn(2, 5, 7, 8)
    routes = routes_of(name, 5, 7)
    gathered = routes.gather(x.flatten(1, 2))
    scanned = torch.stack([scan(gathered[:, k]) for k, scan in enumerate(block.scans)], dim=1)
    torch.testing.assert_close(block.scan(x).flatten(1, 2), routes.restore(scanned).sum(dim=1))


@pytest.mark.parametrize(("name", "options"), [("atrous", {}), ("pixel", {"window": 2})])
def test_runs_are_scanned_as_sequences_of_their_own(name: str, options: dict[str, int]) -> None:
    scan, x, routes = (
        SelectiveScan(6, states=2, rank=1),
        torch.randn(2, 15, 6),
        routes_of(name, 5, 3, **options),
    )
    expected = torch.empty_like(x)
    for cells in routes.order[0].split(list(routes.runs[0])):
        expected[:, cells] = scan(x[:, cells])
    torch.testing.assert_close(scan_route(scan, x, routes, 0), expected)


def test_ss2d_mixes_volumes_along_all_orders_of_axes() -> None:
    block = SS2D(4, routes="axes", dimensions=3, states=2)
    assert len(block.scans) == 12
    assert block(torch.randn(1, 3, 4, 2, 4)).shape == (1, 3, 4, 2, 4)


def test_ms2d_at_one_resolution_is_ss2d_with_two_sets_of_weights() -> None:
    wide = SS2D(8, routes=("row", "row_r", "col", "col_r"), states=1)
    multi = MS2D(8, low_stride=1, low_kernel_size=3, reset_state=True, se=0)
    wide.out_norm = multi.out_norm = nn.Identity()
    multi.conv_low.load_state_dict(multi.conv_full.state_dict())
    wide.conv2d.load_state_dict(multi.conv_full.state_dict())
    for name in ("in_proj", "out_proj"):
        getattr(wide, name).load_state_dict(getattr(multi, name).state_dict())
    for k, scan in enumerate(wide.scans):
        scan.load_state_dict((multi.scan_low if k else multi.scan_full).state_dict())
    x = torch.randn(2, 7, 6, 8)
    torch.testing.assert_close(multi(x), wide(x), rtol=0, atol=1e-5)


def test_shared_scan_is_one_scan_of_the_concatenated_routes() -> None:
    scan, x = SharedScan(6, states=3, rank=1).double(), torch.randn(2, 20, 6, dtype=torch.float64)
    orders = scan_routes(("row_r", "col", "col_r"), 5, 4)
    joined = scan(torch.cat([x[:, order] for order in orders], dim=1)).chunk(3, dim=1)
    for order, part, y in zip(orders, joined, scan.along(x, orders), strict=True):
        torch.testing.assert_close(y[:, order], part)


@pytest.mark.parametrize("reset", [True, False])
def test_state_leaks_from_route_to_route_unless_it_is_reset(reset: bool) -> None:
    scan, x = SharedScan(6, states=1, rank=1), torch.randn(1, 20, 6, requires_grad=True)
    orders = scan_routes(("row_r", "col"), 5, 4)
    column = scan.along(x, orders, reset_state=reset)[1]
    column[
        0, 0
    ].sum().backward()  # the first cell of the column route; others come before it only by the state
    assert x.grad is not None
    assert bool((x.grad[0, 1:] != 0).any()) is not reset


@pytest.mark.parametrize("options", [{}, {"norm": "sum", "upsample": "nearest", "gate": False, "expand": 1}])
def test_ms2d_works_at_odd_sizes_and_every_parameter_learns(options: dict[str, object]) -> None:
    block = MS2D(8, **options)  # type: ignore[arg-type]
    x = torch.randn(2, 7, 9, 8)
    y = block(x)
    (y * torch.randn_like(y)).sum().backward()
    assert y.shape == x.shape
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in block.parameters())


def test_scan_with_groups_equals_separate_scans() -> None:
    u, dt, z = torch.randn(3, 2, 15, 12).unbind()
    A, B, C = -torch.rand(12, 3) - 0.1, *torch.randn(2, 2, 15, 4, 3).unbind()
    D, bias = torch.randn(2, 12).unbind()
    whole = selective_scan(u, dt, A, B, C, D, z=z, dt_bias=bias)
    for g in range(4):
        s = slice(3 * g, 3 * g + 3)
        part = selective_scan(
            u[..., s], dt[..., s], A[s], B[:, :, g], C[:, :, g], D[s], z=z[..., s], dt_bias=bias[s]
        )
        torch.testing.assert_close(whole[..., s], part, rtol=1e-6, atol=1e-6)


def test_variation_has_the_hand_values() -> None:
    columns = torch.tensor([[0.0, 0, 0, 1], [0, 0, 1, 1], [0, 1, 1, 1], [2, 2, 2, 2]]).T
    values = variation(columns).tolist()
    assert values == pytest.approx([2.0, 2 / 3**0.5, 2 / 3, 0.0], abs=1e-4)


@pytest.mark.parametrize("t", [0.0, 0.5])
def test_equal_responses_fuse_to_exactly_zero_with_finite_gradients(t: float) -> None:
    responses = torch.full((4, 3), 0.7)
    responses[0, 0] = 0.9
    responses.requires_grad_()
    fused = RouteAttention(t=t)(responses)
    fused.sum().backward()
    assert fused[1:].tolist() == [0.0, 0.0]
    assert responses.grad is not None
    assert torch.isfinite(responses.grad).all()


def test_variation_ignores_a_common_shift_and_a_positive_scale() -> None:
    y = torch.randn(4, 50, dtype=torch.float64)
    y = y[:, (y - y.amin(0)).mean(0) > 0.5]
    for changed in (y + 3, 7 * y):
        torch.testing.assert_close(variation(changed), variation(y), rtol=1e-4, atol=1e-4)


def test_route_attention_passes_gradcheck_away_from_ties() -> None:
    y = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    for sigma in ("relu", "sigmoid", "power", "exp"):
        assert torch.autograd.gradcheck(RouteAttention(t=0.3, sigma=sigma), y)  # type: ignore[arg-type]


def test_a_learnt_threshold_starts_at_zero_one_a_head_and_gets_a_gradient() -> None:
    block = MHScan(12, t="learn")
    thresholds = [p for name, p in block.named_parameters() if name.endswith(".t")]
    assert len(thresholds) == 4
    block(torch.randn(1, 5, 4, 12)).square().sum().backward()
    for threshold in thresholds:
        assert threshold.item() == 0
        assert threshold.ndim == 1  # so that weight decay leaves it alone
        assert threshold.grad is not None
        assert threshold.grad.abs() > 0


@pytest.mark.parametrize("heads", [3, 4, (("hilbert", "hilbert_r"), "C"), ("row",)])
@pytest.mark.parametrize("fuse", ["sra", "sum", "mean"])
def test_heads_are_free_and_keep_the_shape(heads: int | tuple[str | tuple[str, ...], ...], fuse: str) -> None:
    if heads == ("row",) and fuse == "sra":
        with pytest.raises(ValueError, match="takes 2 or more a head"):
            MHScan(12, heads=heads, fuse="sra")
        return
    block = GatedMultiHeadScan(12, heads=heads, fuse=fuse)
    assert block(torch.randn(2, 3, 5, 12)).shape == (2, 3, 5, 12)


def test_truncated_heads_are_asked_for() -> None:
    with pytest.raises(ValueError, match="allow_truncate"):
        MHScan(16, heads=3)
    assert MHScan(16, heads=3, allow_truncate=True)(torch.randn(1, 2, 2, 16)).shape == (1, 2, 2, 16)


def test_feed_forward_without_its_convolution_sees_one_cell_at_a_time() -> None:
    x = torch.randn(1, 4, 4, 6, requires_grad=True)
    for convolve in (True, False):
        (grad,) = torch.autograd.grad(ConvFeedForward(6, convolve=convolve)(x)[0, 0, 0].sum(), x)
        assert bool((grad[0, 0, 1] != 0).any()) is convolve


def test_block_is_the_identity_where_its_branches_are_dropped() -> None:
    block = ScanBlock(4, SS2D(4), mlp=ConvFeedForward(4), drop_path=1.0 - 1e-9).train()
    x = torch.randn(2, 3, 3, 4)
    torch.testing.assert_close(block(x), x)


def test_wrong_settings_and_layouts_are_refused() -> None:
    with pytest.raises(ValueError, match="channels are first"):
        MS2D(8)(torch.randn(1, 8, 5, 5))
    with pytest.raises(ValueError, match="channels are first"):
        MHScan(8)(torch.randn(1, 8, 5, 5))
    with pytest.raises(ValueError, match="states is 0"):
        MS2D(8, states=0)
    with pytest.raises(ValueError, match="states is 0"):
        SS2D(8, states=0)
    with pytest.raises(ValueError, match="kernel_size is 6"):
        MS2D(8, low_kernel_size=6)
    with pytest.raises(ValueError, match="kernel_size is 4"):
        SS2D(8, kernel_size=4)
    with pytest.raises(ValueError, match="unknown scan 'rows'"):
        MS2D(8, route_full="rows")
    with pytest.raises(ValueError, match="unknown upsample"):
        MS2D(8, upsample="cubic")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="4 heads for 3 channels"):
        MHScan(3)
    with pytest.raises(ValueError, match="heads is 5; allowed: 3, 4, or a tuple"):
        MHScan(20, heads=5)
    with pytest.raises(ValueError, match="did you mean 'sra'"):
        MHScan(8, fuse="sr")  # type: ignore[arg-type]
