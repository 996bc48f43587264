"""What proves the Vim recipe: the scan and the mixer against others, directions, counts, learning, cost."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from foveal.blocks.bidirectional import BidirectionalMamba
from foveal.blocks.mamba import MambaMixer
from foveal.encoders.vim import Vim
from foveal.kernels.selective_scan import BACKENDS, selective_scan, selective_scan_with_state
from foveal.recipes.base import Evidence, Finding, Scale

_TESTED: dict[str, Any] = {"dim": 32, "depth": 2, "states": 8, "image_size": 32, "patch_size": 8}


def evidence(scale: Scale) -> Iterable[Evidence]:
    """Exact facts and one small experiment at either scale; the baseline and the cost in full."""
    full = scale == "full"
    yield partial(scan_equals_the_loop, torch.float32, 1e-5)
    yield halves_equal_the_whole
    yield equals_mambapy
    yield known_answers
    yield large_steps
    yield swapped_directions
    yield parameters
    yield refused
    yield partial(evidence_in_the_lower_half, seeds=3 if full else 1)
    if full:
        from foveal.recipes import _vim_costs

        yield partial(scan_equals_the_loop, torch.float64, 1e-10)
        yield gradients
        yield equals_transformers
        yield partial(digits_beside_deit, seeds=3)
        yield _vim_costs.scan_beside_others
        yield _vim_costs.growth_of_time
        yield _vim_costs.growth_of_memory


def scan_input(
    length: int, *, groups: int = 1, batch: int = 2, width: int = 8, states: int = 4, kind: torch.dtype
) -> dict[str, Any]:
    """Random arguments of a scan, all that it takes."""
    draw = partial(torch.randn, dtype=kind)
    return {
        "u": draw(batch, length, width),
        "dt": draw(batch, length, width),
        "A": -torch.exp(draw(width, states)),
        "B": draw(batch, length, groups, states),
        "C": draw(batch, length, groups, states),
        "D": draw(width),
        "z": draw(batch, length, width),
        "dt_bias": draw(width),
        "initial_state": draw(batch, width, states),
    }


def loop(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, *, z: Tensor, dt_bias: Tensor,
    initial_state: Tensor,
) -> Tensor:  # fmt: skip
    """The recurrence of one channel and one state at a time, in 64 bits."""
    per_group = u.shape[2] // B.shape[2]
    step = torch.log1p(torch.exp(dt + dt_bias))
    y = torch.zeros_like(u)
    for e in range(u.shape[2]):
        for n in range(A.shape[1]):
            h = initial_state[:, e, n]
            for t in range(u.shape[1]):
                d, group = step[:, t, e], e // per_group
                h = torch.exp(d * A[e, n]) * h + d * B[:, t, group, n] * u[:, t, e]
                y[:, t, e] += C[:, t, group, n] * h
    return (y + D * u) * z / (1 + torch.exp(-z))


def scan_equals_the_loop(kind: torch.dtype, tolerance: float) -> Iterator[Finding]:
    """The scan on the CPU equals a plain loop in 64 bits."""
    for backend in [name for name in BACKENDS if name in ("reference", "compiled")]:
        worst = 0.0
        for length in (1, 2, 3, 17, 196) + ((1000,) if kind == torch.float64 else ()):
            for groups in (1, 4):
                width, states = (8, 4) if length < 100 else (4, 2)
                given = scan_input(length, groups=groups, width=width, states=states, kind=kind)
                y = selective_scan(**given, backend=backend).double()
                truth = loop(**{name: tensor.double() for name, tensor in given.items()})
                worst = max(worst, float((y - truth).abs().max() / truth.abs().max()))
        bits = torch.finfo(kind).bits
        yield Finding.at_most(
            f"scan, path {backend}, {bits} bits: largest relative difference to a plain 64-bit loop", worst,
            tolerance,
        )  # fmt: skip


def halves_equal_the_whole() -> Finding:
    """Two halves with the state carried over equal one pass."""
    given = scan_input(41, groups=4, kind=torch.float32)
    whole, last = selective_scan_with_state(**given)
    along = ("u", "dt", "B", "C", "z")
    first = given | {name: given[name][:, :20] for name in along}
    second = given | {name: given[name][:, 20:] for name in along}
    y1, state = selective_scan_with_state(**first)
    y2, end = selective_scan_with_state(**(second | {"initial_state": state}))
    difference = max(float((torch.cat([y1, y2], 1) - whole).abs().max()), float((end - last).abs().max()))
    return Finding.at_most("two halves of a scan with the state carried over and one pass", difference, 1e-6)


def gradients() -> Finding:
    """Gradients of all inputs pass gradcheck in 64 bits."""
    given = scan_input(5, kind=torch.float64)
    leaves = tuple(tensor.requires_grad_() for tensor in given.values())

    def scan(*values: Tensor) -> Tensor:
        named: dict[str, Any] = dict(zip(given, values, strict=True))
        return selective_scan(**named)

    holds = torch.autograd.gradcheck(scan, leaves, raise_exception=False)
    return Finding.fact(f"scan: torch's gradcheck passes for all {len(given)} inputs", holds)


def equals_mambapy() -> Finding:
    """The one-direction mixer equals mambapy's with copied weights."""
    from mambapy.mamba import MambaBlock, MambaConfig

    mixer, x = MambaMixer(24, states=8), torch.randn(2, 49, 24)
    return _equal("mambapy", mixer, MambaBlock(MambaConfig(d_model=24, n_layers=1, d_state=8)), x)


def equals_transformers() -> Finding:
    """The one-direction mixer equals transformers' with copied weights."""
    from transformers import MambaConfig
    from transformers.models.mamba.modeling_mamba import MambaMixer as Theirs

    mixer, x = MambaMixer(24, states=8), torch.randn(2, 49, 24)
    shape: dict[str, Any] = {"hidden_size": 24, "intermediate_size": 48, "state_size": 8, "time_step_rank": 2}
    return _equal("transformers", mixer, Theirs(MambaConfig(**shape, use_mambapy=False), 0), x)


@torch.no_grad()
def _equal(name: str, mixer: MambaMixer, theirs: nn.Module, x: Tensor) -> Finding:
    weights = {key.removeprefix("scan."): tensor for key, tensor in mixer.state_dict().items()}
    theirs.load_state_dict(weights)
    claim = f"mixer with the weights of {name}'s: largest difference of the output"
    return Finding.at_most(claim, float((mixer(x) - theirs(x)).abs().max()), 1e-5)


def known_answers() -> Iterator[Finding]:
    """Closed forms: an exponential moving sum, no step, no look ahead."""
    u, step, rate = torch.randn(1, 60, 1), 0.3, -0.7
    one = torch.ones(1, 60, 1)
    y = selective_scan(u, one * step, torch.full((1, 1), rate), one, one, softplus=False)
    ages = torch.arange(60)[:, None] - torch.arange(60)
    decay = torch.where(ages >= 0, torch.exp(step * rate * ages.clamp(min=0)), torch.zeros(()))
    moving = step * decay @ u[0, :, 0]
    difference = float((y[0, :, 0] - moving).abs().max())
    yield Finding.at_most("constant A, B = C = 1: difference to the exponential moving sum", difference, 1e-6)

    given = scan_input(30, kind=torch.float32)
    del given["z"], given["initial_state"]
    still = selective_scan(**(given | {"dt": torch.full_like(given["dt"], -1e4)}))
    yield Finding.fact("steps that vanish: y is D u exactly", bool((still == given["D"] * given["u"]).all()))

    changed = given["u"].clone()
    changed[:, 17] += 1
    before, after = selective_scan(**given), selective_scan(**(given | {"u": changed}))
    yield Finding.fact(
        "a token changed: outputs before it are the same to the bit, its own is not",
        torch.equal(before[:, :17], after[:, :17]) and not torch.equal(before[:, 17], after[:, 17]),
    )


def large_steps(length: int = 4096) -> Iterator[Finding]:
    """Steps up to 20 and A = -16 over 4096 tokens stay finite."""
    given = scan_input(length, batch=1, width=4, kind=torch.float32)
    given |= {"A": torch.full_like(given["A"], -16.0), "dt": 20 * torch.rand(1, length, 4)}
    del given["dt_bias"]
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in given.items()}
    y = selective_scan(**leaves, softplus=False)
    y.sum().backward()
    finite = all(bool(torch.isfinite(leaf.grad).all()) for leaf in leaves.values() if leaf.grad is not None)
    yield Finding.fact(
        f"steps to 20, A = -16, {length} tokens: output and gradients are finite",
        finite and bool(torch.isfinite(y).all()),
    )
    total = (given["dt"] * -16.0).cumsum(dim=1)
    factored = torch.exp(total) * torch.cumsum(torch.exp(-total) * given["dt"] * given["u"], dim=1)
    yield Finding.fact(
        "the factored form exp(S) cumsum(exp(-S) x), not used here, overflows at the same steps",
        not bool(torch.isfinite(factored).all()),
        expected="infinite or NaN",
        measured=f"{int((~torch.isfinite(factored)).sum())} of {factored.numel()} values",
    )


def swapped_directions() -> Finding:
    """Swapped directions of a flipped sequence flip the output."""
    both, x = BidirectionalMamba(32), torch.randn(2, 65, 32)
    other = copy.deepcopy(both)
    other.conv1d, other.conv1d_b = other.conv1d_b, other.conv1d
    other.scan, other.scan_b = other.scan_b, other.scan
    with torch.no_grad():
        difference = float((other(x.flip(1)).flip(1) - both(x)).abs().max())
    return Finding.at_most("directions swapped and the sequence flipped flips the output", difference, 1e-6)


def parameters() -> Iterator[Finding]:
    """Parameters of Vim-Ti and Vim-S with 1000 classes."""
    for size, wanted in (("tiny", 7_148_008), ("small", 25_796_584)):
        with torch.device("meta"):
            encoder = Vim(size=size)
        count = sum(p.numel() for p in encoder.parameters()) + 1000 * (encoder.dim + 1)
        yield Finding.fact(
            f"parameters of the {size} model with 1000 classes",
            count == wanted,
            expected=f"{wanted:,}",
            measured=f"{count:,}",
        )


def refused() -> Finding:
    """What cannot be scanned or encoded is refused with an error."""
    given = scan_input(6, kind=torch.float32)
    image = torch.randn(1, 3, 32, 32)
    fixed = Vim(**_TESTED, resize_positions=False)
    wrong: dict[str, tuple[Any, type[Exception]]] = {
        "A >= 0": (partial(selective_scan, **(given | {"A": -given["A"]})), ValueError),
        "groups that do not divide the channels": (
            partial(selective_scan, **(given | {"B": torch.randn(2, 6, 3, 4), "C": torch.randn(2, 6, 3, 4)})),
            ValueError,
        ),
        "integers": (partial(selective_scan, **(given | {"u": given["u"].long()})), TypeError),
        "no token": (partial(selective_scan, **{
            name: x[:, :0] if name in ("u", "dt", "B", "C", "z") else x for name, x in given.items()
        }), ValueError),
        "NaN": (partial(fixed, torch.where(image > 3, image, torch.nan)), FloatingPointError),
        "another image size, positions not resized": (partial(fixed, torch.randn(1, 3, 64, 64)), ValueError),
    }  # fmt: skip
    passed = [name for name, (call, error) in wrong.items() if not _raises(call, error)]
    told = f"not refused: {', '.join(passed)}" if passed else ""
    return Finding.fact(f"refused: {', '.join(wrong)}", not passed, measured=told)


def _raises(call: Any, error: type[Exception]) -> bool:
    try:
        call()
    except error:
        return True
    return False


def bright_squares(
    rows: tuple[int, int], *, square: int = 8, images: int = 3000, train: int = 2000, seed: int = 0
) -> tuple[Tensor, Tensor, int]:
    """Noise of 32 px with a brighter square, whose half, left or right, is the class.

    Args:
        rows: first and last row at which a square may begin.
        square: its side, pixels.
        images: how many.
        train: of them.
        seed: of the noise and the places.
    """
    side = 32
    generator = torch.Generator().manual_seed(seed)
    draw = partial(torch.randint, size=(images,), generator=generator)
    labels, top = draw(0, 2), draw(rows[0], rows[1] + 1)
    left = draw(0, side // 2 - square + 1) + labels * side // 2
    pixels = torch.arange(side)
    down, across = (((pixels >= s[:, None]) & (pixels < s[:, None] + square)) for s in (top, left))
    noise = torch.rand(images, 1, side, side, generator=generator) / 2
    return noise + 0.5 * (down[:, None, :, None] & across[:, None, None, :]), labels, train


def evidence_in_the_lower_half(seeds: int) -> Iterator[Finding]:
    """The class lies in the lower half: one direction with the middle token cannot see it, two can."""
    from foveal.recipes._encoder_learning import LearningData, train_and_score

    images, labels, train = bright_squares((16, 20), square=12)
    data = LearningData(images[:train], labels[:train], images[train:], labels[train:])

    def scores(direction: Literal["forward", "both"]) -> list[float]:
        make = partial(Vim, **_TESTED, in_channels=1, direction=direction)
        options: dict[str, Any] = {"steps": 80, "batch_size": 32, "learning_rate": 4e-3}
        return [train_and_score(make, data, seed=seed, **options) for seed in range(seeds)]

    claim = "class in the lower half, token in the middle: accuracy of"
    yield Finding.close(f"{claim} one direction, chance 0.5", scores("forward"), 0.5, tolerance=0.05)
    yield Finding.at_least(f"{claim} two directions", scores("both"), 0.95)


class Deit(nn.Module):
    """timm's plain transformer with a class token, as an encoder of small grey images."""

    def __init__(self, *, dim: int, depth: int, patch_size: int, mlp_ratio: float) -> None:
        super().__init__()
        from timm.models.vision_transformer import VisionTransformer

        self.dim = dim
        self.network = VisionTransformer(
            img_size=32, patch_size=patch_size, in_chans=1, num_classes=0, embed_dim=dim, depth=depth,
            num_heads=4, mlp_ratio=mlp_ratio,
        )  # fmt: skip

    def forward(self, images: Tensor) -> Any:
        """Pooled features."""
        from foveal.encoders.features import Features

        tokens = self.network.forward_features(images)
        return Features(tokens[:, 1:], (tokens.shape[1] - 1,), tokens[:, 0])


def digits_beside_deit(seeds: int, steps: int = 150) -> Iterator[Finding]:
    """Digits: Vim of 4 layers and 64 channels beside a DeiT of as many parameters."""
    from foveal.recipes._encoder_learning import digits, train_and_score

    data = digits(32)
    vim = partial(Vim, dim=64, depth=4, image_size=32, patch_size=4, in_channels=1)
    deit = partial(Deit, dim=64, depth=4, patch_size=4, mlp_ratio=2.9)
    counts = [sum(p.numel() for p in make().parameters()) for make in (vim, deit)]
    yield Finding.close("parameters of Vim over those of the DeiT", counts[0] / counts[1], 1, tolerance=0.02)
    options: dict[str, Any] = {"steps": steps, "batch_size": 32}
    ours, theirs = (
        [train_and_score(make, data, seed=seed, **options) for seed in range(seeds)] for make in (vim, deit)
    )
    gains = [a - b for a, b in zip(ours, theirs, strict=True)]
    told = f"Vim {sum(ours) / seeds:.3f}, DeiT {sum(theirs) / seeds:.3f}"
    yield Finding.at_least(f"digits, {steps} steps: accuracy of Vim less DeiT's ({told})", gains, -0.01)
