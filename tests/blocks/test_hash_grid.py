import pytest
import torch

from foveal.blocks.hash_grid import HashGrid, NeuralField


def small(**changes):
    torch.manual_seed(0)
    grid = HashGrid(
        **{
            "levels": 4,
            "features": 3,
            "table_size": 256,
            "base_resolution": 4,
            "max_resolution": 40,
            **changes,
        }
    )
    with torch.no_grad():
        grid.table.normal_()
    return grid.double()


def vertices_of(side):
    line = torch.arange(side)
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([x, y], dim=-1).reshape(-1, 2)


def test_resolutions_grow_by_one_factor_from_base_to_maximum():
    assert HashGrid(levels=3, table_size=2, base_resolution=4, max_resolution=16).resolutions == (4, 8, 16)
    assert HashGrid(table_size=2).resolutions[-1] == 1024
    assert len(HashGrid(table_size=2).resolutions) == 16


@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_values_at_the_vertices_of_a_level_are_its_entries(level):
    grid = small()
    vertices = vertices_of(grid.resolutions[level])
    places = vertices.double() / (grid.resolutions[level] - 1)
    rows = grid.entries(vertices[:, None].expand(-1, 4, -1))[:, level]
    found = grid(places)[:, 3 * level : 3 * level + 3]
    torch.testing.assert_close(found, grid.table[rows], atol=1e-12, rtol=0)


def test_levels_whose_table_holds_all_vertices_have_no_collisions_and_others_do():
    grid = small()
    for level, side in enumerate(grid.resolutions):
        vertices = vertices_of(side)
        rows = grid.entries(vertices[:, None].expand(-1, 4, -1))[:, level]
        distinct = len(rows.unique())
        assert (distinct == side**2) == (side**2 <= 256)
        first, size = int(grid.offsets[level]), min(side**2, 256)
        assert int(rows.min()) >= first
        assert int(rows.max()) < first + size


def test_the_field_is_continuous_across_cells():
    grid = small()
    places = torch.rand(200, 2, dtype=torch.float64)
    places[:50] = (vertices_of(9)[:50] / 8).double()  # vertices, where cells meet
    step = 1e-7
    moved = (places + step * torch.randn(200, 2, dtype=torch.float64)).clamp(0, 1)
    bound = 4 * float(grid.table.detach().abs().max()) * 40 * (moved - places).abs().max()
    assert float((grid(moved) - grid(places)).detach().abs().max()) <= bound


def test_gradients_in_places_and_tables_are_those_of_finite_differences():
    grid = small(levels=2, table_size=32, max_resolution=9)
    places = torch.rand(5, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(grid, (places,))
    table = grid.table.detach().clone().requires_grad_()
    call = lambda values: torch.func.functional_call(grid, {"table": values}, (places.detach(),))  # noqa: E731
    assert torch.autograd.gradcheck(call, (table,))


def test_any_shape_of_places_gives_vectors_of_the_field():
    field = NeuralField(10, small()).double()
    assert field(torch.rand(2, 3, 2, dtype=torch.float64)).shape == (2, 3, 10)


@pytest.mark.parametrize("value", [-0.01, 1.01, float("nan")])
def test_coordinates_outside_the_image_are_refused(value):
    places = torch.rand(4, 2, dtype=torch.float64)
    places[1, 0] = value
    with pytest.raises(ValueError, match="allowed: 0 to 1"):
        small()(places)


def test_tables_and_resolutions_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="powers of two"):
        small(table_size=100)
    with pytest.raises(ValueError, match="base_resolution"):
        small(base_resolution=64)
    with pytest.raises(ValueError, match=r"\(\.\.\., 2\)"):
        small()(torch.rand(3, 3, dtype=torch.float64))
