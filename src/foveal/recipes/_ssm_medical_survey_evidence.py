"""What proves the survey's toolkit: scans, blocks, sizes, bags, warps, catalogue, errors; then learning."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import product
from statistics import fmean
from typing import Any

import torch

from foveal.blocks.bags import SRMamba, reordered
from foveal.blocks.grid_blocks import GRID_BLOCKS, create_grid_block
from foveal.blocks.mamba import MambaMixer
from foveal.blocks.scan_routes import (
    Routes,
    list_scans,
    locality,
    neighbour_gap,
    reach,
    routes_of,
    scan_routes,
)
from foveal.blocks.vision_mamba_layers import PVM
from foveal.blocks.warping import compose, integrate, warp
from foveal.markdown import table
from foveal.models.networks import create_network, list_networks
from foveal.recipes.base import Evidence, Finding, Scale, Section
from foveal.recipes.state_space_models import StateSpaceModel, catalogue

# First routes on 3 x 4 cells, by the definitions of the scans' papers.
GOLDEN: dict[str, tuple[str, dict[str, Any]]] = {
    "row": ("0 1 2 3 4 5 6 7 8 9 10 11", {}),
    "col": ("0 4 8 1 5 9 2 6 10 3 7 11", {}),
    "snake": ("0 1 2 3 7 6 5 4 8 9 10 11", {}),
    "window": ("0 1 4 5 2 3 6 7 8 9 10 11", {"window": 2}),
    "atrous": ("0 2 8 10 1 3 9 11 4 6 5 7", {}),
    "strips": ("0 4 1 5 2 6 3 7 8 9 10 11", {"width": 2}),
    "inter-slice": ("0 4 8 1 5 9 2 6 10 3 7 11", {"nslices": 3}),
    "zigzag": ("3 2 1 0 4 5 6 7 11 10 9 8", {"variant": 1}),
    "X": ("0 1 4 8 5 2 3 6 9 10 7 11", {}),
    "S": ("0 1 2 3 7 11 10 9 8 4 5 6", {}),
}


def evidence(scale: Scale) -> Iterable[Evidence]:
    """Exact facts at either scale; networks at 64 px and learning in full."""
    yield scans_are_bijections
    yield orders_are_as_defined
    yield scans_reach
    yield scans_are_local
    yield blocks_keep_shapes
    yield sizes
    yield bags_are_reordered
    yield warps_compose
    yield the_catalogue_is_sound
    yield refused
    if scale == "full":
        yield networks_run
        from foveal.recipes._ssm_medical_survey_bags import far_pairs
        from foveal.recipes._ssm_medical_survey_learning import blobs, distant_cue, light_network
        from foveal.recipes._ssm_medical_survey_warps import known_warps

        yield partial(known_warps, seeds=2)
        yield partial(far_pairs, seeds=1)
        yield partial(blobs, seeds=1)
        yield partial(distant_cue, seeds=1)
        yield partial(light_network, seeds=1)


def scans_are_bijections() -> Iterator[Finding]:
    """Every scan is a bijection with an exact inverse on flat and deep grids, odd ones too."""
    grids = [*product(range(2, 8), repeat=2), *product((2, 3, 5), repeat=3)]
    made = {(name, grid): routes_of(name, *grid) for name in list_scans() for grid in grids}
    wrong = {name for (name, _), routes in made.items() if not _inverts(routes)}
    claim = f"{len(list_scans())} scans on {len(grids)} grids of two and three axes: p[t] = 0 .. L - 1"
    yield Finding.fact(claim, not wrong, measured=", ".join(sorted(wrong)))
    tokens = torch.randn(1, 105, 2)
    exact = [
        torch.equal(
            routes.restore(routes.gather(tokens)), tokens[:, None].expand(-1, len(routes.order), -1, -1)
        )
        for routes in (routes_of(name, 3, 5, 7) for name in list_scans())
    ]
    yield Finding.fact("gathered and restored, tokens of 3 x 5 x 7 cells are the same", all(exact))


def _inverts(routes: Routes) -> bool:
    everything = torch.arange(routes.order.shape[1]).expand_as(routes.order)
    back = routes.inverse.gather(1, routes.order)
    return torch.equal(back, everything) and torch.equal(routes.order.sort(dim=1).values, everything)


def orders_are_as_defined() -> Iterator[Finding]:
    """Golden orders on 3 x 4 cells; the inter-slice order's definition."""
    wrong = [
        name
        for name, (golden, options) in GOLDEN.items()
        if scan_routes(name, 3, 4, **options)[0].tolist() != [int(cell) for cell in golden.split()]
    ]
    yield Finding.fact(f"golden orders on 3 x 4: {', '.join(GOLDEN)}", not wrong, measured=", ".join(wrong))
    place = routes_of("inter-slice", 4, 3, 5).inverse[0].view(4, 15)
    s, p = torch.meshgrid(torch.arange(4), torch.arange(15), indexing="ij")
    yield Finding.fact(
        "inter-slice: position p of slice s comes at p nslices + s", torch.equal(place, p * 4 + s)
    )


def scans_reach() -> Iterator[Finding]:
    """Two-way scans reach the whole grid, one-way ones half of it."""
    grid = (8, 8)
    whole = {name: routes_of(name, *grid) for name in list_scans()}
    both = {name: reach(routes) for name, routes in whole.items() if _two_way(routes)}
    one = {name: reach(routes) for name, routes in whole.items() if routes.order.shape[0] == 1}
    one = {name: share for name, share in one.items() if len(whole[name].runs[0]) == 1}
    claim = f"least share of places that each input influences, two-way scans ({', '.join(both)})"
    yield Finding.at_least(claim, min(both.values()), 1.0)
    claim = f"mean of the same, one-way scans ({', '.join(one)})"
    yield Finding.close(claim, fmean(one.values()), 0.5, tolerance=0.01)


def _two_way(routes: Routes) -> bool:
    orders = {tuple(order.tolist()) for order in routes.order}
    unbroken = all(len(runs) == 1 for runs in routes.runs)
    return unbroken and any(order[::-1] in orders for order in orders)


def scans_are_local() -> Iterator[Finding | Section]:
    """Snakes step to neighbours; windows keep cells of neighbouring rows near. The table has all scans."""
    grid = (14, 14)
    first = {name: routes_of(name, *grid) for name in list_scans()}
    near = {name: locality(routes.order[0], grid) for name, routes in first.items()}
    yield Finding.close("mean step of the snake", near["snake"], 1.0, tolerance=0.0)
    yield Finding.at_least("mean step of rows less the snake's", near["row"] - near["snake"], 0.5)
    gaps = {name: neighbour_gap(first[name].order[0], grid, axis=0) for name in first}
    yield Finding.at_most(
        "places between vertical neighbours, windows over rows", gaps["window"] / gaps["row"], 0.9
    )
    rows = [
        [
            f"`{name}`",
            f"{len(routes.order)}, {len(routes_of(name, 4, 4, 4).order)}",
            f"{near[name]:.2f}",
            f"{gaps[name]:.1f}, {neighbour_gap(routes.order[0], grid, axis=1):.1f}",
            f"{reach(routes):.2f}",
            " ".join(map(str, scan_routes(name, 3, 4)[0].tolist())),
        ]
        for name, routes in first.items()
    ]
    head = ["scan", "routes, 2-D and 3-D", "step", "gaps down, across", "reach", "first order on 3 x 4"]
    words = (
        "On 14 x 14 cells, first route: mean step between cells that follow each other; mean number of "
        "places between vertical and horizontal neighbours; share of all places that an input influences by "
        "any route.\n\n"
    )
    yield Section("Scans", words + table(head, rows))


def blocks_keep_shapes() -> Finding:
    """Every block of the zoo keeps its map's shape, on images and volumes, and every parameter learns."""
    wrong = []
    for name, kind in GRID_BLOCKS.items():
        for axes in kind.dimensions:
            grid = (4, 3, 5)[-axes:]
            block = create_grid_block(name, 32, dimensions=axes, grid=grid if kind.wants_grid else None)
            x = torch.randn(2, 32, *grid)
            y = block(x)
            (y * torch.randn_like(y)).sum().backward()
            if y.shape != x.shape or any(p.grad is None for p in block.parameters()):
                wrong.append(f"{name} {axes}-D")
    claim = f"{len(GRID_BLOCKS)} blocks keep the shape and give every parameter a gradient"
    return Finding.fact(claim, not wrong, measured=", ".join(wrong))


def sizes() -> Iterator[Finding]:
    """Parameters of UltraLight VM-UNet and of its layer."""
    network = create_network("ultralight-vm-unet", outputs=1, in_channels=3)
    yield Finding.close("parameters of UltraLight VM-UNet", _count(network), 49_457, tolerance=0)
    layer = _count(PVM(64, 64))
    yield Finding.close("parameters of a PVM layer of 64 channels", layer, 7_649, tolerance=0)
    full = _count(torch.nn.ModuleList([torch.nn.LayerNorm(64), MambaMixer(64), torch.nn.Linear(64, 64)]))
    yield Finding.close("of a Mamba layer of full width, its norm and projection", full, 36_928, tolerance=0)
    yield Finding.close("the first over the second", layer / full, 0.21, tolerance=0.005)


def _count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@torch.no_grad()
def bags_are_reordered() -> Iterator[Finding]:
    """The reordered copy of a bag is its transpose, and padding changes nothing."""
    wanted = torch.arange(60).reshape(12, 5).T.flatten()
    equal = torch.equal(reordered(torch.tensor([60]), 60, 5)[0], wanted)
    yield Finding.fact("60 instances at rate 5: (12, 5), transposed", equal)
    mixer, bag = SRMamba(16, rate=5), torch.randn(1, 43, 16)
    padded = torch.cat([bag, torch.randn(1, 20, 16)], dim=1)
    together = mixer(padded, torch.arange(63)[None] < 43)[:, :43]
    difference = float((together - mixer(bag)).abs().max())
    yield Finding.at_most("a bag in a padded batch beside itself alone: largest difference", difference, 1e-5)


def warps_compose() -> Iterator[Finding]:
    """Whole steps shift exactly; a velocity and its reverse undo each other."""
    image, step = torch.rand(1, 1, 6, 7, 8), torch.zeros(1, 3, 6, 7, 8)
    step[:, 1] = 2
    exact = (warp(image, step)[:, :, :, :5] - image[:, :, :, 2:]).abs().max()
    yield Finding.at_most("a flow of two cells beside the shifted volume", float(exact), 1e-5)
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    velocity = 2 * torch.stack([torch.sin(x / 8), torch.sin(y / 8)])[None]
    around = compose(integrate(velocity), integrate(-velocity))[..., 6:-6, 6:-6].abs().max()
    yield Finding.at_most("a velocity of 2 px there and back: px from the start", float(around), 0.05)


def the_catalogue_is_sound() -> Iterator[Finding]:
    """Every model of the catalogue fits the schema, and what it names exists and builds."""
    models = catalogue()
    yield Finding.at_least("models of the catalogue that fit its schema", len(models), 60)
    wrong = {
        "no such key": {"sacn": ["row"]},
        "no such scan": {"scan": ["rwo"]},
        "no such task": {"tasks": ["x"]},
    }
    entry = {"name": "Toy", "paper": "2401.00001", "tasks": ["segmentation"]}
    passed = [
        name
        for name, change in wrong.items()
        if not _raises(partial(StateSpaceModel.model_validate, entry | change))
    ]
    yield Finding.fact(f"refused: {', '.join(wrong)}", not passed, measured=", ".join(passed))


def networks_run() -> Finding:
    """Every named network runs forward and backward at 64 px."""
    slow: list[str] = []
    for name in list_networks():
        start = time.perf_counter()
        options: dict[str, Any] = {"image_size": (64, 64)} if name == "tm-unet" else {}
        deep = name in ("vivim", "vmrnn")
        if deep:
            options["spatial_dims"] = 3
        network = create_network(name, outputs=2, in_channels=1, **options)
        network(torch.rand(1, 1, *((4,) if deep else ()), 64, 64)).square().mean().backward()
        if time.perf_counter() - start > 10:
            slow.append(name)
    claim = f"{len(list_networks())} networks build and run forward and backward at 64 px in 10 s each"
    return Finding.fact(claim, not slow, measured=", ".join(slow))


def refused() -> Finding:
    """What does not fit is refused."""
    unet = partial(create_network, "ssm-unet", outputs=1, in_channels=1, dims=(4, 8))
    nan = torch.full((1, 1, 8, 8), torch.nan)
    wrong: dict[str, Callable[[], Any]] = {
        "nslices that does not divide the tokens": lambda: routes_of("inter-slice", 3, 4, nslices=5),
        "an unknown scan": lambda: unet(scan="hilbrt"),
        "an unknown block": lambda: unet(block_bot="mambo"),
        "a volume for a network of images": lambda: unet()(torch.zeros(1, 1, 8, 8, 8)),
        "a block of images for volumes": lambda: create_grid_block("mhs", 8, dimensions=3),
        "NaN": lambda: unet()(nan),
        "PVM of 6 channels": lambda: PVM(6, 6),
        "a size that does not divide": lambda: create_network("vm-unet", outputs=1)(
            torch.zeros(1, 3, 40, 40)
        ),
        "padding before an instance": lambda: SRMamba(8)(torch.zeros(1, 2, 8), torch.tensor([[False, True]])),
    }
    passed = [name for name, call in wrong.items() if not _raises(call)]
    return Finding.fact(f"refused: {', '.join(wrong)}", not passed, measured=", ".join(passed))


def _raises(call: Callable[[], Any]) -> bool:
    try:
        call()
    except (ValueError, FloatingPointError):
        return True
    return False
