"""Scan routes: bijections, inverses, golden orders, steps and measures."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from foveal.blocks.scan_routes import (
    list_scans,
    locality,
    neighbour_gap,
    reach,
    routes_of,
    scan_routes,
    steps,
)

ONE_SLICE = {"inter-slice", "tri-orientated"}
SIDE = st.integers(1, 9)


def orders(name: str, *grid: int, **options: object) -> list[list[int]]:
    return [order.tolist() for order in scan_routes(name, *grid, **options)]


def options_for(name: str, grid: tuple[int, ...]) -> dict[str, object]:
    return {"segments": (1,)} if name.startswith("hierarchical") and torch.tensor(grid).prod() < 4 else {}


@pytest.mark.parametrize("name", [*list_scans(), "hilbert_r", "atrous_r"])
@given(grid=st.one_of(st.tuples(SIDE, SIDE), st.tuples(*[st.integers(1, 5)] * 3)))
def test_every_route_is_a_bijection_with_its_inverse_and_restores_exactly(
    name: str, grid: tuple[int, ...]
) -> None:
    routes = routes_of(name, *grid, **options_for(name, grid))
    count, length = routes.order.shape
    everything = torch.arange(length).expand(count, -1)
    assert torch.equal(routes.order.sort(dim=1).values, everything)
    assert torch.equal(routes.inverse.gather(1, routes.order), everything)
    assert all(sum(run) == length for run in routes.runs)
    tokens = torch.randn(2, length, 3)
    assert torch.equal(routes.restore(routes.gather(tokens)), tokens[:, None].expand(-1, count, -1, -1))


@pytest.mark.parametrize("name", list_scans())
def test_a_one_dimensional_grid_has_routes_too(name: str) -> None:
    for order in scan_routes(name, 6):
        assert sorted(order.tolist()) == list(range(6))


@given(height=SIDE, width=SIDE)
def test_continuous_and_spiral_routes_go_to_neighbours_and_diagonal_ones_to_touching_cells(
    height: int, width: int
) -> None:
    for name in ("C", "S", "snake", "zigzag"):
        assert all(
            (steps(o, (height, width)).abs().sum(1) == 1).all() for o in scan_routes(name, height, width)
        )
    for order in scan_routes("X", height, width):
        assert (steps(order, (height, width)).abs().amax(1) == 1).all() if height * width > 1 else True


@given(grid=st.tuples(*[st.integers(1, 5)] * 3))
def test_in_three_dimensions_snakes_and_spirals_step_to_neighbours_too(grid: tuple[int, int, int]) -> None:
    for name in ("C", "S", "zigzag"):
        assert all((steps(order, grid).abs().sum(1) == 1).all() for order in scan_routes(name, *grid))
    for order in scan_routes("X", *grid):
        assert (steps(order, grid).abs().amax(1) <= 1).all()


@pytest.mark.parametrize(
    ("name", "route", "golden"),
    [
        ("C", 0, "0 1 2 5 4 3 6 7 8"),
        ("C", 2, "0 3 6 7 4 1 2 5 8"),
        ("S", 0, "0 1 2 5 8 7 6 3 4"),
        ("X", 0, "0 1 3 6 4 2 5 7 8"),
        ("Z", 2, "0 3 6 1 4 7 2 5 8"),
        ("X", 2, "2 1 5 8 4 0 3 7 6"),
        ("S", 2, "6 7 8 5 2 1 0 3 4"),
    ],
)
def test_golden_orders_of_the_multi_head_scan_on_3_by_3(name: str, route: int, golden: str) -> None:
    order = orders(name, 3, 3)
    assert order[route] == [int(cell) for cell in golden.split()]
    assert order[route + 1] == order[route][::-1]


@pytest.mark.parametrize(
    ("name", "options", "golden"),
    [
        ("row", {}, "0 1 2 3 4 5 6 7 8 9 10 11"),
        ("col", {}, "0 4 8 1 5 9 2 6 10 3 7 11"),
        ("snake", {}, "0 1 2 3 7 6 5 4 8 9 10 11"),
        ("X", {}, "0 1 4 8 5 2 3 6 9 10 7 11"),
        ("S", {}, "0 1 2 3 7 11 10 9 8 4 5 6"),
        ("window", {"window": 2}, "0 1 4 5 2 3 6 7 8 9 10 11"),
        ("pixel", {"window": 2}, "0 1 4 5 2 3 6 7 8 9 10 11"),
        ("atrous", {}, "0 2 8 10 1 3 9 11 4 6 5 7"),
        ("strips", {"width": 2}, "0 4 1 5 2 6 3 7 8 9 10 11"),
        ("inter-slice", {"nslices": 3}, "0 4 8 1 5 9 2 6 10 3 7 11"),
        ("inter-slice", {"nslices": 2}, "0 6 1 7 2 8 3 9 4 10 5 11"),
        ("hilbert", {}, "0 4 5 1 2 3 7 6 10 11 9 8"),
        ("multi-scale", {}, "11 10 9 8 7 6 5 4 3 2 1 0"),
        ("triplet", {}, "0 1 2 3 4 5 6 7 8 9 10 11"),
        ("hierarchical", {}, "0 1 2 3 4 5 6 7 8 9 10 11"),
        ("C", {}, "0 1 2 3 7 6 5 4 8 9 10 11"),
        ("Z", {}, "0 1 2 3 4 5 6 7 8 9 10 11"),
        ("axes", {}, "0 1 2 3 4 5 6 7 8 9 10 11"),
        ("bidirectional", {}, "0 1 2 3 4 5 6 7 8 9 10 11"),
        ("cross", {}, "0 1 2 3 4 5 6 7 8 9 10 11"),
        ("multi-path", {}, "0 1 2 3 4 5 6 7 8 9 10 11"),
        ("spatio-temporal", {}, "0 1 2 3 4 5 6 7 8 9 10 11"),
        ("tri-orientated", {}, "0 1 2 3 4 5 6 7 8 9 10 11"),
        ("zigzag", {}, "0 1 2 3 7 6 5 4 8 9 10 11"),
    ],
)
def test_golden_first_orders_on_3_by_4(name: str, options: dict[str, object], golden: str) -> None:
    assert orders(name, 3, 4, **options)[0] == [int(cell) for cell in golden.split()]


@pytest.mark.parametrize(
    ("variant", "golden"),
    [
        (0, "0 1 2 3 7 6 5 4 8 9 10 11"),
        (1, "3 2 1 0 4 5 6 7 11 10 9 8"),
        (2, "8 9 10 11 7 6 5 4 0 1 2 3"),
        (3, "11 10 9 8 4 5 6 7 3 2 1 0"),
        (4, "0 4 8 9 5 1 2 6 10 11 7 3"),
        (5, "3 7 11 10 6 2 1 5 9 8 4 0"),
        (6, "8 4 0 1 5 9 10 6 2 3 7 11"),
        (7, "11 7 3 2 6 10 9 5 1 0 4 8"),
    ],
)
def test_each_of_the_eight_zigzags_is_a_scan_of_its_own(variant: int, golden: str) -> None:
    assert orders("zigzag", 3, 4, variant=variant) == [[int(cell) for cell in golden.split()]]


@pytest.mark.parametrize(
    ("name", "golden"),
    [
        ("spatio-temporal", "0 4 8 1 5 9 2 6 10 3 7 11"),
        ("C", "0 4 8 9 5 1 2 6 10 11 7 3"),
        ("window", "0 4 8 1 5 9 2 6 10 3 7 11"),
        ("strips", "0 1 2 3 4 5 6 7 8 9 10 11"),
        ("tri-orientated", "0 4 8 1 5 9 2 6 10 3 7 11"),
    ],
)
def test_golden_third_orders_on_3_by_4(name: str, golden: str) -> None:
    assert orders(name, 3, 4)[2] == [int(cell) for cell in golden.split()]


def test_a_bag_of_one_axis_is_reordered_as_mambamil_does() -> None:
    length, rate = 20, 5
    wanted = torch.arange(length).reshape(length // rate, rate).T.flatten()
    assert torch.equal(scan_routes("inter-slice", length, nslices=length // rate)[0], wanted)


def test_cross_scan_has_vmambas_order_of_routes() -> None:
    assert orders("cross", 3, 4) == orders(["row", "col", "row_r", "col_r"], 3, 4)  # type: ignore[arg-type]
    assert orders("cross", 3, 4)[2] == orders("cross", 3, 4)[0][::-1]


def test_routes_begin_anew_where_their_scan_says_so() -> None:
    assert routes_of("atrous", 3, 4).runs == ((4, 4, 2, 2),)
    assert routes_of("pixel", 3, 4, window=2).runs[0] == (4, 4, 2, 2)
    assert routes_of("hierarchical", 2, 4).runs == ((8,), (4, 4), (2, 2, 2, 2))
    assert routes_of("cross", 3, 4).runs == ((12,),) * 4


def test_inter_slice_puts_position_p_of_slice_s_at_p_times_slices_plus_s() -> None:
    routes = routes_of("inter-slice", 4, 3, 5)
    for cell in range(60):
        slice_, position = divmod(cell, 15)
        assert routes.inverse[0, cell] == position * 4 + slice_


def test_numbers_of_routes_in_two_and_three_dimensions() -> None:
    counts = {"zigzag": (8, 48), "axes": (4, 12), "strips": (4, 6), "triplet": (2, 3), "C": (4, 4)}
    for name, (flat, deep) in counts.items():
        assert (len(scan_routes(name, 3, 5)), len(scan_routes(name, 2, 3, 5))) == (flat, deep)
        assert len(set(map(tuple, orders(name, 2, 3, 5)))) == deep


def test_hilbert_steps_to_neighbours_on_powers_of_two() -> None:
    for grid in ((8, 8), (16, 16), (4, 4, 4)):
        assert locality(scan_routes("hilbert", *grid)[0], grid) == 1.0


def test_shuffle_depends_on_its_seed_only() -> None:
    assert (
        orders("shuffle", 4, 5, seed=3) == orders("shuffle", 4, 5, seed=3) != orders("shuffle", 4, 5, seed=4)
    )


def test_routes_are_made_once() -> None:
    assert routes_of("X", 16, 16) is routes_of("X", 16, 16)


def test_snake_is_nearer_than_raster_and_windows_are_nearer_across_rows() -> None:
    grid = (14, 14)
    (row,), (snake,), windows = (
        scan_routes("row", *grid),
        scan_routes("snake", *grid),
        scan_routes("window", *grid),
    )
    assert locality(snake, grid) == 1.0 < locality(row, grid)
    assert neighbour_gap(windows[0], grid, axis=0) < neighbour_gap(row, grid, axis=0)


def test_one_way_scans_reach_half_of_the_grid_and_two_way_ones_all_of_it() -> None:
    for name in ("bidirectional", "cross", "C", "X", "S", "Z", "window", "strips", "axes", "tri-orientated"):
        assert reach(routes_of(name, 7, 9)) == 1.0
    for name in ("row", "col", "snake", "hilbert", "shuffle", "inter-slice"):
        assert reach(routes_of(name, 7, 9)) == pytest.approx(0.5 + 0.5 / 63)
    assert reach(routes_of("atrous", 8, 8)) == pytest.approx((16 * 17 / 2 * 4) / 64**2)


def test_unknown_scans_and_options_and_unfit_grids_are_refused() -> None:
    with pytest.raises(ValueError, match="did you mean 'hilbert'"):
        scan_routes("hilbrt", 3, 3)
    with pytest.raises(ValueError, match="window: no option of the scan row"):
        scan_routes("row", 3, 3, window=2)
    with pytest.raises(ValueError, match="divisor of the 12 tokens"):
        scan_routes("inter-slice", 3, 4, nslices=5)
    with pytest.raises(ValueError, match="one to three sizes"):
        scan_routes("row", 0, 3)
    with pytest.raises(ValueError, match="variant is 8; allowed: 0 to 7"):
        scan_routes("zigzag", 3, 4, variant=8)
    with pytest.raises(ValueError, match="window is 0"):
        scan_routes("window", 3, 3, window=0)
    with pytest.raises(ValueError, match="make routes for the grid at hand"):
        routes_of("row", 3, 3).gather(torch.zeros(1, 8, 2))


def test_routes_first_asked_for_on_the_meta_device_are_whole():
    with torch.device("meta"):
        routes = routes_of("S", 11, 13)
    assert torch.equal(routes.inverse.gather(1, routes.order), torch.arange(143).expand_as(routes.order))
