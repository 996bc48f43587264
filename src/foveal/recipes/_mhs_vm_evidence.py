"""What proves MHS-VM: routes, identity, fusion, groups, parameters, errors, cost, learning."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import product
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from foveal.blocks.multi_head_scan import HEADS, MHScan, RouteAttention, variation
from foveal.blocks.scan_routes import routes_of, scan_routes, steps
from foveal.blocks.ss2d import SS2D
from foveal.kernels.selective_scan import selective_scan
from foveal.models.networks.vm_unet import VMUNet
from foveal.recipes.base import Evidence, Finding, Scale

GOLDEN = {
    ("C", 0): "0 1 2 5 4 3 6 7 8",
    ("C", 2): "0 3 6 7 4 1 2 5 8",
    ("S", 0): "0 1 2 5 8 7 6 3 4",
    ("X", 0): "0 1 3 6 4 2 5 7 8",
    ("Z", 2): "0 3 6 1 4 7 2 5 8",
}


def evidence(scale: Scale) -> Iterable[Evidence]:
    """Exact facts at either scale; cost and learning in full."""
    yield routes
    yield golden_orders
    yield identity_engine
    yield fusion
    yield groups
    yield parameters
    yield refused
    if scale == "full":
        yield partial(cost, dim=96)
        yield partial(cost, dim=384)
        yield partial(lesions, seeds=3)
        yield partial(curves, seeds=2)


def routes() -> Iterator[Finding]:
    """Bijections with their inverses, and the steps of the patterns."""
    grids = list(product(range(1, 10), repeat=2))
    made = {(name, grid): routes_of(name, *grid) for name in HEADS[4] for grid in grids}
    inverse = all(
        torch.equal(r.inverse.gather(1, r.order), torch.arange(r.order.shape[1]).expand(4, -1))
        for r in made.values()
    )
    yield Finding.fact("C, X, S and Z: p[t] = 0 .. L - 1 for all grids of 1 to 9 by 1 to 9", inverse)
    for name in ("C", "S"):
        found = [steps(o, grid).abs().sum(1) for grid in grids for o in made[name, grid].order]
        one = all(bool((step == 1).all()) for step in found)
        yield Finding.fact(f"all steps of {name} go to one of four neighbours", one)
    found = [steps(o, grid).abs().amax(1) for grid in grids for o in made["X", grid].order if len(o) > 1]
    worst = max(int(step.max()) for step in found)
    yield Finding.at_most("largest step of X along any axis", worst, 1)


def golden_orders() -> Finding:
    """The orders of the card on 3 x 3 cells."""
    wrong = [
        f"{name}{route // 2}"
        for (name, route), golden in GOLDEN.items()
        if scan_routes(name, 3, 3)[route].tolist() != [int(cell) for cell in golden.split()]
    ]
    return Finding.fact("golden orders C0, C1, S0, X0 and Z1 on 3 x 3", not wrong, measured=", ".join(wrong))


def identity_engine() -> Finding:
    """Gather and restore give the input in all sequences."""
    tokens, exact = torch.randn(2, 35, 3), []
    for name in HEADS[4]:
        r = routes_of(name, 5, 7)
        exact += [torch.equal(back, tokens) for back in r.restore(r.gather(tokens)).unbind(1)]
    return Finding.fact(
        "gathered and restored: sequences that equal the input", all(exact), measured=str(sum(exact))
    )


def fusion() -> Iterator[Finding]:
    """Ties, hand values, invariance and gradients of scan route attention."""
    ties = torch.full((4, 5), 0.3, requires_grad=True)
    fused = [RouteAttention(t=t)(ties) for t in (0.0, 0.5)]
    yield Finding.fact(
        "equal responses fuse to exactly 0 for t = 0 and 0.5", all(not bool(f.any()) for f in fused)
    )
    (gradient,) = torch.autograd.grad(fused[0].sum(), ties)
    yield Finding.fact("the gradient at ties is finite", bool(torch.isfinite(gradient).all()))
    for values, wanted in (((0, 0, 0, 1), 2.0), ((0, 0, 1, 1), 1.1547), ((0, 1, 1, 1), 0.6667)):
        found = float(variation(torch.tensor(values, dtype=torch.float64)[:, None]))
        yield Finding.close(f"cv of {values}", found, wanted, tolerance=2e-4)
    y = torch.randn(4, 2000, dtype=torch.float64)
    y = y[:, (y - y.amin(0)).mean(0) > 0.5]
    cv = variation(y)
    worst = max(float((variation(changed) - cv).abs().max()) for changed in (y + 3, 5 * y))
    yield Finding.at_most("cv after a common shift and a scale: largest change", worst, 1e-4)
    inside = float(cv.min()) >= 0.666 and float(cv.max()) <= 2.0
    told = f"{float(cv.min()):.3f} to {float(cv.max()):.3f}"
    yield Finding.fact(
        "cv of four values that are not all equal", inside, expected="0.667 to 2", measured=told
    )


def groups() -> Finding:
    """One scan of four groups equals four scans."""
    u, dt = torch.randn(2, 2, 49, 32)
    A, (B, C) = -torch.rand(32, 16) - 0.1, torch.randn(2, 2, 49, 4, 16)
    whole = selective_scan(u, dt, A, B, C)
    parts = [
        selective_scan(u[..., s], dt[..., s], A[s], B[:, :, g], C[:, :, g])
        for g, s in enumerate(slice(8 * g, 8 * g + 8) for g in range(4))
    ]
    difference = (whole - torch.cat(parts, dim=-1)).abs().max() / whole.abs().max()
    return Finding.at_most(
        "a scan of four groups, relative difference to four scans", float(difference), 1e-6
    )


def parameters() -> Iterator[Finding]:
    """Parameters of the whole network with 3 and 4 heads, beside VM-UNet."""
    plain = _parameters(block="ss2d")
    for heads, wanted in ((3, 17.39), (4, 17.26)):
        count = _parameters(block_settings={"heads": heads})
        yield Finding.close(f"millions of parameters with {heads} heads", count, wanted, tolerance=0.005)
        yield Finding.at_most(f"over those of VM-UNet ({plain:.2f} M), {heads} heads", count / plain, 0.65)


def _parameters(**settings: Any) -> float:
    with torch.device("meta"):
        return sum(p.numel() for p in VMUNet(**settings).parameters()) / 1e6


def refused() -> Finding:
    """What does not fit is refused."""
    from foveal.objectives.image_dice import BceImageDiceObjective

    network = VMUNet(dims=(8, 8, 8, 8), depths_enc=(1, 1, 1, 1), depths_dec=(1, 1, 1, 1))
    batch = {"images": torch.rand(1, 3, 32, 32), "masks": torch.full((1, 1, 32, 32), 255.0)}
    wrong: dict[str, Callable[[], Any]] = {
        "sides that 32 does not divide": lambda: network(torch.randn(1, 3, 48, 64)),
        "fewer channels than heads": lambda: MHScan(3),
        "routes of another size": lambda: routes_of("C", 4, 4).gather(torch.zeros(1, 25, 2)),
        "five heads without patterns": lambda: MHScan(20, heads=5),
        "masks of 0 and 255": lambda: BceImageDiceObjective(network)(batch),
    }
    passed = [name for name, call in wrong.items() if not _raises(call)]
    return Finding.fact(f"refused: {', '.join(wrong)}", not passed, measured=", ".join(passed))


def _raises(call: Callable[[], Any]) -> bool:
    try:
        call()
    except ValueError:
        return True
    return False


def cost(dim: int, rounds: int = 9) -> Finding:
    """Time of the scans of all heads beside those of SS2D of twice the width."""
    from foveal.machine import seconds_of

    heads, wide = MHScan(dim), SS2D(dim)
    parts, whole = torch.randn(4, 1, 64, 64, dim // 4), torch.randn(1, 64, 64, 2 * dim)

    def train(scan: Callable[[Tensor], Tensor], x: Tensor) -> None:
        scan(x.requires_grad_()).sum().backward()

    def all_heads(x: Tensor) -> Tensor:
        return torch.stack([heads.scan(part, k) for k, part in enumerate(x)])

    seconds = seconds_of(
        {"heads": partial(train, all_heads, parts), "SS2D": partial(train, wide.scan, whole)}, rounds=rounds
    )
    claim = f"time of the heads' scans over SS2D's of E = 2 d, d = {dim}, 64 x 64 cells, both passes"
    return Finding.at_most(claim, seconds["heads"] / seconds["SS2D"], 0.6)


def small_network(block: str = "mhs", **settings: Any) -> VMUNet:
    """A frame of three stages for pictures of one channel."""
    return VMUNet(
        block=block,
        block_settings={"states": 4, **settings},
        dims=(24, 48, 96),
        depths_enc=(1, 1, 1),
        depths_dec=(1, 1, 1),
        in_channels=1,
        drop_path=0.0,
    )


def lesions(seeds: int, steps: int = 250) -> Iterator[Finding]:
    """Dice on spiky blobs: heads beside SS2D in the same frame, and attention beside the sum."""
    from foveal.recipes._mask_learning import spiky_blobs, train_and_dice

    data = spiky_blobs()
    networks: dict[str, Callable[[], VMUNet]] = {
        "4 heads": partial(small_network, heads=4),
        "3 heads": partial(small_network, heads=3),
        "SS2D": partial(small_network, "ss2d"),
        "4 heads, sum": partial(small_network, heads=4, fuse="sum"),
    }
    sizes = {name: sum(p.numel() for p in make().parameters()) for name, make in networks.items()}
    dice = {
        name: [train_and_dice(make, data, steps=steps, seed=seed) for seed in range(seeds)]
        for name, make in networks.items()
    }
    told = ", ".join(f"{name} {fmean(values):.3f}" for name, values in dice.items())
    for name in ("4 heads", "3 heads"):
        yield Finding.at_least(
            f"spiky blobs: Dice of {name} less SS2D's, not worse than half a point ({told})",
            _less(dice[name], dice["SS2D"]), -0.005,
        )  # fmt: skip
        yield Finding.at_most(
            f"parameters of {name} over SS2D's, same frame", sizes[name] / sizes["SS2D"], 1.0
        )
    yield Finding.at_least(
        "Dice of route attention less the plain sum's", _less(dice["4 heads"], dice["4 heads, sum"]), 0.0
    )


def curves(seeds: int, steps: int = 400) -> Finding:
    """Dice on thin curves: four routes a head beside one."""
    from foveal.recipes._mask_learning import thin_curves, train_and_dice

    data = thin_curves()
    four = partial(small_network, heads=("C", "Z"), fuse="sum")
    one = partial(small_network, heads=("snake", "row"), fuse="sum")
    dice = [
        [train_and_dice(make, data, steps=steps, seed=seed) for seed in range(seeds)] for make in (four, one)
    ]
    told = f"{fmean(dice[0]):.3f} and {fmean(dice[1]):.3f}"
    return Finding.at_least(
        f"thin curves: Dice of 4 routes a head less that of 1 ({told})", _less(*dice), 0.02
    )


def _less(a: list[float], b: list[float]) -> list[float]:
    return [x - y for x, y in zip(a, b, strict=True)]
