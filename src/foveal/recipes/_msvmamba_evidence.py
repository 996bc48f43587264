"""What proves MSVMamba: restored routes, equality with SS2D, counts, shapes, decay, state, cost, learning."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from foveal.blocks.mamba import SelectiveScan
from foveal.blocks.ms2d import MS2D, ConvFeedForward, SharedScan
from foveal.blocks.scan_routes import routes_of, scan_routes
from foveal.blocks.ss2d import SS2D, ScanBlock
from foveal.encoders.msvmamba import MSVMamba
from foveal.encoders.vmamba import ScanPyramid
from foveal.recipes.base import Evidence, Finding, Scale


def evidence(scale: Scale) -> Iterable[Evidence]:
    """Exact facts and the cost of the scans at either scale; learning in full."""
    full = scale == "full"
    yield routes_are_restored
    yield equals_ss2d
    yield parameters
    yield shapes
    yield decay
    yield state_leak
    yield refused
    yield partial(cost, rounds=15 if full else 3)
    if full:
        yield partial(learning, seeds=2)


def routes_are_restored() -> Iterator[Finding]:
    """Identity scans merged give four times the map; every route comes back exactly."""
    block = SS2D(4)
    block.scans = nn.ModuleList(_Identity() for _ in range(4))
    grids = [(5, 7), (8, 3), (1, 6), (9, 9)]
    maps = [torch.randn(2, *grid, 8) for grid in grids]
    yield Finding.fact("merged identity scans are 4 x", all(torch.equal(block.scan(x), 4 * x) for x in maps))
    restored = []
    for grid, x in zip(grids, maps, strict=True):
        routes, tokens = routes_of("cross", *grid), x.flatten(1, 2)
        restored.append(torch.equal(routes.restore(routes.gather(tokens)), torch.stack([tokens] * 4, dim=1)))
    yield Finding.fact(f"four routes gathered and restored exactly on grids {grids}", all(restored))


class _Identity(nn.Module):
    def forward(self, x: Tensor, *, order: Tensor | None = None) -> Tensor:
        return x


@torch.no_grad()
def equals_ss2d() -> Finding:
    """At one resolution MS2D is SS2D with two sets of weights."""
    wide = SS2D(16, routes=("row", "row_r", "col", "col_r"), states=1)
    multi = MS2D(16, low_stride=1, low_kernel_size=3, reset_state=True, se=0)
    wide.out_norm = multi.out_norm = nn.Identity()  # type: ignore[assignment]
    multi.conv_low.load_state_dict(multi.conv_full.state_dict())
    wide.conv2d.load_state_dict(multi.conv_full.state_dict())
    wide.in_proj, wide.out_proj = multi.in_proj, multi.out_proj
    for k, scan in enumerate(wide.scans):
        scan.load_state_dict((multi.scan_low if k else multi.scan_full).state_dict())
    x = torch.randn(2, 9, 7, 16)
    claim = (
        "stride 1, equal kernels, no norm, states reset: largest difference to SS2D with two weight groups"
    )
    return Finding.at_most(claim, float((multi(x) - wide(x)).abs().max()), 1e-5)


def parameters() -> Iterator[Finding]:
    """Parameters with 1000 classes."""
    sizes = {"nano": 6_864_136, "micro": 11_879_272, "tiny": 33_046_312}
    for size, wanted in sizes.items():
        count = _parameters(size=size)
        claim = f"parameters of {size} (v1) with 1000 classes"
        yield Finding.fact(claim, count == wanted, expected=f"{wanted:,}", measured=f"{count:,}")
    for size, millions in (("tiny", 32), ("small", 50), ("base", 91)):
        found = _parameters(size=size, variant="v2") / 1e6
        yield Finding.close(f"parameters of {size} (v2), millions", found, millions, tolerance=0.5)


def _parameters(**settings: Any) -> int:
    with torch.device("meta"):
        encoder = MSVMamba(**settings)
    return sum(p.numel() for p in encoder.parameters()) + 1000 * (encoder.dim + 1)


@torch.no_grad()
def shapes() -> Iterator[Finding]:
    """Maps of 224 px images, the low map of the last stage, and an odd size."""
    encoder = MSVMamba(dim=8, depths=(1, 1, 1, 1)).eval()
    maps = [tuple(m.shape[-2:]) for m in encoder(torch.randn(1, 3, 224, 224)).pyramid]
    wanted = [(56, 56), (28, 28), (14, 14), (7, 7)]
    yield Finding.fact("maps of 224 px", maps == wanted, expected=str(wanted), measured=str(maps))
    mixer, low = MS2D(8), []
    mixer.conv_low.register_forward_hook(lambda *hook: low.append(tuple(hook[2].shape[-2:])))
    y = mixer(torch.randn(1, 7, 7, 8))
    yield Finding.fact(
        "7 x 7 cells are scanned at 4 x 4 and come back to 7 x 7",
        low == [(4, 4)] and y.shape == (1, 7, 7, 8),
        measured=f"{low[0]}, {tuple(y.shape[1:3])}",
    )
    odd = [tuple(m.shape[-2:]) for m in encoder(torch.randn(1, 3, 230, 250)).pyramid]
    yield Finding.fact("230 x 250 px give four maps", len(odd) == 4, measured=str(odd))


def decay(cells: int = 16, width: int = 16, draws: int = 8) -> Iterator[Finding]:
    """Influence fades with distance in the sequence, less so over a map of half resolution."""
    scan = _steady(SelectiveScan(width, states=1, rank=1))
    x = torch.randn(draws, 256, width, requires_grad=True)
    (grad,) = torch.autograd.grad(scan(x)[:, -1].sum(), x)
    norms = grad.norm(dim=-1).mean(dim=0)[:-1].flip(0)  # of distances 1 to 255; the skip is left out
    means = [float(part.mean()) for part in norms[:255].chunk(5)]
    yield Finding.fact(
        "mean gradient norm by distance in the sequence (fifths of 255 steps) falls",
        all(a > b for a, b in pairwise(means)),
        measured=" > ".join(f"{mean:.2g}" for mean in means),
    )
    single, multi = (
        sum(_from_corner_to_corner(make, cells, width) for _ in range(draws)) / draws
        for make in (lambda: SS2D(width, routes="row", states=1), lambda: MS2D(width))
    )
    claim = f"gradient from the first to the last corner of {cells} x {cells} cells, MS2D over one full route"
    yield Finding.at_least(claim, multi / single, 3.0)


def _steady(scan: SelectiveScan, step: float = 0.05) -> SelectiveScan:
    """A scan whose steps are all of one size."""
    nn.init.zeros_(scan.dt_proj.weight)
    nn.init.constant_(scan.dt_proj.bias, float(torch.log(torch.expm1(torch.tensor(step)))))
    return scan


def _from_corner_to_corner(make: Callable[[], nn.Module], cells: int, width: int) -> float:
    block = make().double()
    for module in block.modules():
        if isinstance(module, SelectiveScan):
            _steady(module)
    x = torch.randn(1, cells, cells, width, dtype=torch.float64, requires_grad=True)
    # Squeeze-and-excitation sees all cells at once: its way is closed, so that scans alone connect corners.
    if isinstance(block, MS2D):
        block.se = nn.Identity()
    (grad,) = torch.autograd.grad(block(x)[0, -1, -1].sum(), x)
    return float(grad[0, 0, 0].norm())


def state_leak() -> Iterator[Finding]:
    """The state runs on from route to route unless it is reset."""
    scan, x = SharedScan(8, states=1, rank=1), torch.randn(1, 20, 8, requires_grad=True)
    orders = scan_routes(("row_r", "col"), 5, 4)
    for reset in (False, True):
        first = scan.along(x, orders, reset_state=reset)[1][0, 0]
        (grad,) = torch.autograd.grad(first.sum(), x)
        depends = bool((grad[0, 1:] != 0).any())
        claim = (
            f"reset_state={reset}: the column route's first output depends on cells of the route before it"
        )
        yield Finding.fact(
            claim, depends is not reset, expected=str(not reset).lower(), measured=str(depends)
        )


def refused() -> Finding:
    """Small images, channels first, no state and even kernels are refused."""
    tiny = MSVMamba(dim=8, depths=(1, 1, 1, 1))
    wrong: dict[str, Callable[[], Any]] = {
        "an image of 31 px": lambda: tiny(torch.randn(1, 3, 31, 31)),
        "channels first": lambda: MS2D(8)(torch.randn(1, 8, 5, 5)),
        "no state": lambda: MS2D(8, states=0),
        "an even kernel": lambda: MS2D(8, low_kernel_size=6),
    }
    passed = [name for name, call in wrong.items() if not _raises(call)]
    return Finding.fact(f"refused: {', '.join(wrong)}", not passed, measured=", ".join(passed))


def _raises(call: Callable[[], Any]) -> bool:
    try:
        call()
    except ValueError:
        return True
    return False


def cost(rounds: int) -> Iterator[Finding]:
    """Time of the scans of MS2D beside those of SS2D, forward and backward."""
    from foveal.machine import seconds_of

    multi, wide = MS2D(64), SS2D(64, states=1)
    full, low = torch.randn(1, 56, 56, 128), torch.randn(1, 28, 28, 128)

    def train(scan: Callable[..., Tensor], *maps: Tensor) -> None:
        scan(*(m.requires_grad_() for m in maps)).sum().backward()

    multi.out_norm = nn.Identity()  # type: ignore[assignment]
    seconds = seconds_of(
        {"MS2D": partial(train, multi.scan, full, low), "SS2D": partial(train, wide.scan, full)},
        rounds=rounds,
    )
    claim = "time of MS2D's scans over SS2D's, 56 x 56 cells, E = 128, N = 1, forward and backward"
    yield Finding.at_most(claim, seconds["MS2D"] / seconds["SS2D"], 0.6)
    yield Finding.close("scanned cells of MS2D over SS2D", (1 + 3 / 4) / 4, 0.44, tolerance=0.005)


def small_pyramid(mixer: str, *, convolve: bool = True) -> ScanPyramid:
    """Two stages of 16 and 32 channels that differ in their mixer alone; no squeeze-and-excitation."""
    mixers: dict[str, Callable[[int], nn.Module]] = {
        "MS2D": partial(MS2D, se=0),
        "one route": partial(SS2D, routes="row", states=1),
        "SS2D": partial(SS2D, states=1),
    }

    def block(width: int, drop_path: float) -> nn.Module:
        mlp = ConvFeedForward(width, convolve=convolve)
        return ScanBlock(width, mixers[mixer](width), mlp=mlp, drop_path=drop_path, eps=1e-5)

    return ScanPyramid(block, dim=16, depths=(1, 1), drop_path=0, in_channels=1, style="patches")


def two_marks(images: int = 1500, *, train: int = 900, side: int = 64, seed: int = 0) -> Any:
    """Noise with a bright and a dark square; the class: which lies further left, and which is the larger."""
    from foveal.recipes._encoder_learning import LearningData

    generator = torch.Generator().manual_seed(seed)
    pixels = torch.arange(side)
    places = torch.randint(10, side - 10, (images, 2, 2), generator=generator)
    larger = torch.randint(2, (images,), generator=generator)
    halves = torch.tensor([[4, 8], [8, 4]])[larger]
    canvas = 0.4 + 0.2 * torch.rand(images, 1, side, side, generator=generator)
    for k, light in enumerate((0.4, -0.4)):
        down, across = ((pixels - places[:, k, axis, None]).abs() < halves[:, k, None] for axis in range(2))
        canvas[:, 0] += light * (down[:, :, None] & across[:, None, :])
    labels = 2 * (places[:, 0, 1] < places[:, 1, 1]).long() + larger
    return LearningData(canvas[:train], labels[:train], canvas[train:], labels[train:])


def learning(seeds: int, steps: int = 150) -> Iterator[Finding]:
    """Accuracy and time of MS2D beside one route and beside SS2D, with and without the convolution."""
    from foveal.recipes._encoder_learning import accuracy, digits, learn

    options: dict[str, Any] = {"steps": steps, "batch_size": 32, "learning_rate": 4e-3}
    variants = {name: {"mixer": name} for name in ("MS2D", "one route", "SS2D")}
    variants["no convolution"] = {"mixer": "MS2D", "convolve": False}  # type: ignore[dict-item]
    for task, data in (("two marks of 64 px", two_marks()), ("digits of 32 px", digits(32))):
        scores: dict[str, list[float]] = {}
        seconds = dict.fromkeys(variants, 0.0)
        for seed in range(seeds):
            for name, settings in variants.items():
                learned = learn(partial(small_pyramid, **settings), data, seed=seed, **options)  # type: ignore[arg-type]
                scores.setdefault(name, []).append(accuracy(learned.probabilities, learned.labels))
                seconds[name] += learned.seconds

        def gains(other: str, scores: dict[str, list[float]] = scores) -> list[float]:
            return [a - b for a, b in zip(scores["MS2D"], scores[other], strict=True)]

        means = ", ".join(f"{name} {sum(values) / seeds:.3f}" for name, values in scores.items())
        yield Finding.at_least(
            f"{task}: accuracy of MS2D less one route's ({means})", gains("one route"), 0.02
        )
        yield Finding.at_least(f"{task}: accuracy of MS2D less SS2D's", gains("SS2D"), -0.01)
        yield Finding.at_most(
            f"{task}: training time of MS2D over SS2D's", seconds["MS2D"] / seconds["SS2D"], 1.0
        )
        yield Finding.at_least(
            f"{task}: accuracy with the feed-forward's convolution less without",
            gains("no convolution"),
            0.01,
        )
